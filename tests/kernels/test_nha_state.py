"""The state: taken back by some tokens, kept longer than its window, and written over by a step."""

import pytest
import torch
from nha_cases import Case

from kernels import nha_attention, sliding_window_attention

WINDOW = 7


def parts(length: int) -> tuple[dict, dict]:
    return Case(length, WINDOW, 5, 2, "mask", None, False, True, False, "batch", 1.0).inputs()


def cut(x: dict, settings: dict, start: int, end: int) -> dict:
    """The arguments of tokens [start, end)."""
    rotary = tuple(t[start:end] for t in settings["rotary"])
    return {name: t[:, start:end] for name, t in x.items()} | settings | {"rotary": rotary}


@pytest.mark.parametrize(("seen", "count"), [(6, 1), (7, 7), (7, 4), (3, 2)])
def test_what_has_not_entered_the_slots_can_be_taken_back(seen, count):
    x, settings = parts(seen)
    whole, shorter = (nha_attention(**cut(x, settings, 0, n), return_state=True)[1] for n in (seen, seen - count or 1))
    assert whole.why_not_before(count) is None
    found = whole.before(count)
    if seen == count:
        assert (found.seen == 0).all() and found.ring_size == 0
        return
    for name, t in shorter.tensors().items():
        assert torch.equal(getattr(found, name), t), name


def test_why_a_state_cannot_go_back():
    x, settings = parts(20)
    state = nha_attention(**cut(x, settings, 0, 8), return_state=True)[1]
    assert "tokens have been merged" in state.why_not_before(1)
    assert "has seen 8 tokens" in state.why_not_before(9)
    q, k, v = x["q"], x["k"], x["v"]
    state = sliding_window_attention(q, k, v, WINDOW, return_state=True)[1]
    assert state.why_not_before(1) is None
    assert "holds the last 7 tokens, and a window of 7 would reach 2 further back" in state.why_not_before(2)
    state = state.before(1)
    assert "holds the last 6 tokens" in state.why_not_before(1)


@pytest.mark.parametrize("keep", [WINDOW, 10, 30])
def test_a_state_that_keeps_more_goes_further_back_and_attends_to_the_same(keep):
    x, _ = parts(40)
    pieces = lambda start, end: (x[name][:, start:end] for name in "qkv")  # noqa: E731
    wanted = sliding_window_attention(*pieces(0, 40), WINDOW)[0]
    state = sliding_window_attention(*pieces(0, 25), WINDOW, return_state=True, keep=keep)[1]
    back = keep - WINDOW + 1
    assert state.why_not_before(back) is None
    assert back > 18 or state.why_not_before(back + 1)
    state = state.before(min(back, 20))
    start = 25 - min(back, 20)
    for end in (start + 1, start + 3, 40):
        out, state = sliding_window_attention(*pieces(start, end), WINDOW, state=state, return_state=True, keep=WINDOW)
        torch.testing.assert_close(out, wanted[:, start:end], rtol=1e-9, atol=1e-9)
        start = end
    with pytest.raises(ValueError, match="keep is 6; wanted the window, 7, or more"):
        sliding_window_attention(*pieces(0, 4), WINDOW, keep=6)


def test_a_step_writes_into_the_ring_that_it_is_given():
    x, settings = parts(12)
    state = nha_attention(**cut(x, settings, 0, 10), return_state=True)[1]
    before = {name: t.clone() for name, t in state.tensors().items()}
    one = cut(x, settings, 10, 11)
    wanted, after = nha_attention(**one, state=state, return_state=True)
    assert all(torch.equal(t, before[name]) for name, t in state.tensors().items())
    out, found = nha_attention(**one, state=state, return_state=True, overwrite_state=True)
    assert torch.equal(out, wanted)
    assert all(torch.equal(t, getattr(after, name)) for name, t in found.tensors().items())
    for name in ("k", "v", "g", "cos", "sin"):
        assert getattr(found, name).data_ptr() == getattr(state, name).data_ptr(), name
