"""The chunked form against the definition in fp64: outputs, log-sum-exps, states, gradients, and sequences cut anywhere."""

import pytest
import torch
from nha_cases import Case, assert_close, pairwise_cases

from kernels import nha_attention
from kernels.nha import chunked as chunked_module

CASES = pairwise_cases()
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}


def run(case: Case, backend: str, dtype=torch.float64, inputs=None, **extra) -> dict:
    x, settings = inputs or case.inputs()
    x = {name: t.to(dtype) for name, t in x.items()}
    settings = settings | extra
    if "rotary" in settings:
        settings["rotary"] = tuple(t.to(dtype) for t in settings["rotary"])
    out, state, (slots, window) = nha_attention(**x, **settings, backend=backend, return_state=True, return_lse=True)
    named = {"out": out, "lse_slots": slots, "lse_window": window}
    return named | {f"state.{name}": t for name, t in state.tensors().items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_definition(case):
    wanted = run(case, "recurrent")
    for dtype, bound in BOUNDS.items():
        assert_close(run(case, "chunked", dtype), wanted, bound)


@pytest.mark.parametrize("case", pairwise_cases(time=[65, 2, 40], slots=[17, 1, 16], window=[7, 0, 1, 64, "T", None]), ids=str)
def test_gradients_equal_the_definition(case):
    def gradients(backend, dtype):
        x, settings = case.inputs()
        x = {name: t.to(dtype).requires_grad_() for name, t in x.items()}
        if "rotary" in settings:
            settings["rotary"] = tuple(t.to(dtype) for t in settings["rotary"])
        out = nha_attention(**x, **settings, backend=backend)[0]
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (out * weight.to(dtype)).sum().backward()
        found = {f"d{name}": torch.zeros_like(t) if t.grad is None else t.grad for name, t in x.items()}
        if case.width == 0 and case.slot_bias:
            # Without a window the bias shifts all logits alike: its gradient is zero, and has no relative error.
            assert found.pop("dslot_bias").abs().max() < 1e-4
        return found

    wanted = gradients("recurrent", torch.float64)
    assert_close(gradients("chunked", torch.float64), wanted, 1e-9)
    assert_close(gradients("chunked", torch.float32), wanted, 1e-4)


@pytest.mark.parametrize("backend", ["recurrent", "chunked"])
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case.time == 300 else [], id=str(case))
        for case in pairwise_cases(
            layout=["batch"], time=[65, 300, 2], strength=[1.0, 30.0], window=[64, 0, 1, 7, 100, "T", None]
        )
    ],
)
def test_cut_anywhere_and_continued(case, backend):
    x, settings = case.inputs()
    rotary, bias = settings.pop("rotary", None), x.pop("slot_bias", None)
    whole, _ = nha_attention(**x, **settings, rotary=rotary, slot_bias=bias, backend="recurrent")
    gen = torch.Generator().manual_seed(case.time)
    cuts = sorted(torch.randint(0, case.time + 1, (3,), generator=gen).tolist())
    state, outs = None, []
    for start, end in zip([0, *cuts], [*cuts, case.time], strict=True):
        if start == end:
            continue
        piece = {name: t[:, start:end] for name, t in x.items()}
        turns = None if rotary is None else tuple(t[start:end] for t in rotary)
        out, state = nha_attention(
            **piece, **settings, rotary=turns, slot_bias=bias, state=state, return_state=True, backend=backend
        )
        outs.append(out)
    assert_close({"out": torch.cat(outs, 1)}, {"out": whole}, 1e-9)
    assert state.seen.tolist() == [case.time] * 2


def test_packed_sequences_continue_from_states_of_unlike_lengths():
    case = Case(40, 7, 5, 2, "mask", None, True, True, False, "batch", 1.0)
    x, settings = case.inputs()
    bias, rotary = x.pop("slot_bias"), settings.pop("rotary")
    whole, _ = nha_attention(**x, **settings, slot_bias=bias, rotary=rotary, backend="recurrent")
    lengths, state = [(0, 3, 11, 40), (0, 25, 25, 40)], None
    for step in range(3):
        spans = [(b, lengths[b][step], lengths[b][step + 1]) for b in range(2)]
        piece = {name: torch.cat([t[b, s:e] for b, s, e in spans])[None] for name, t in x.items()}
        turns = tuple(torch.cat([t[s:e] for _, s, e in spans]) for t in rotary)
        sizes = torch.tensor([0, *[e - s for _, s, e in spans]]).cumsum(0).int()
        out, state = nha_attention(
            **piece, **settings, slot_bias=bias, rotary=turns, cu_seqlens=sizes, state=state, return_state=True
        )
        wanted = torch.cat([whole[b, s:e] for b, s, e in spans])[None]
        assert_close({"out": out}, {"out": wanted}, 1e-9)
    assert state.seen.tolist() == [40, 40]


def test_state_does_not_grow_and_a_decode_step_leaves_the_old_state_alone():
    case = Case(50, 8, 4, 2, "mask", None, False, True, False, "batch", 1.0)
    x, settings = case.inputs()
    rotary = settings.pop("rotary")
    _, state = nha_attention(**x, **settings, rotary=rotary, return_state=True)
    before = {name: t.clone() for name, t in state.tensors().items()}
    step = {name: t[:, :1] for name, t in x.items()}
    _, after = nha_attention(**step, **settings, rotary=tuple(t[:1] for t in rotary), state=state, return_state=True)
    assert after.nbytes() == state.nbytes()
    assert all(torch.equal(before[name], t) for name, t in state.tensors().items())


def test_positions_may_differ_by_sequence():
    case = Case(30, 6, 4, 2, "mask", None, False, True, False, "batch", 1.0)
    x, settings = case.inputs()
    angles = torch.rand(2, 30, 8, dtype=torch.float64) * 6
    settings["rotary"] = (angles.cos(), angles.sin())
    both, _ = nha_attention(**x, **settings, backend="chunked")
    for b in range(2):
        settings["rotary"] = (angles[b].cos(), angles[b].sin())
        alone, _ = nha_attention(**{name: t[b : b + 1] for name, t in x.items()}, **settings, backend="recurrent")
        assert_close({"out": both[b : b + 1]}, {"out": alone}, 1e-9)


def test_large_logits_and_strongest_gates_stay_finite_and_right():
    case = Case(130, 16, 8, 1, "mask", None, False, False, False, "batch", 30.0)
    x, settings = case.inputs()
    x["q"], x["g"] = x["q"] * 25, torch.where(x["g"] < -15, torch.full_like(x["g"], -30.0), x["g"] * 0)
    wanted = run(case, "recurrent", inputs=(x, settings))
    assert_close(run(case, "chunked", torch.float32, inputs=(x, settings)), wanted, 1e-5)


@pytest.mark.parametrize(
    "case",
    pairwise_cases(
        layout=["batch"], time=[40], slots=[5], window=[0, 1, 7, 64], slot_delay=[None, 0, 3, 11], strength=[1.0, 30.0]
    ),
    ids=str,
)
def test_token_by_token_from_a_state_equals_the_definition(case):
    """Also where sequences of one batch have seen unlike numbers of tokens, and the log-sum-exps."""
    x, settings = case.inputs()
    bias, rotary = x.pop("slot_bias", None), settings.pop("rotary", None)
    settings |= {"slot_bias": bias, "return_state": True, "return_lse": True}
    turn = lambda s, e: None if rotary is None else tuple(t[s:e] for t in rotary)  # noqa: E731
    whole = nha_attention(**x, **settings, rotary=turn(0, 40), backend="recurrent")
    cuts = torch.tensor([0, 9, 14], dtype=torch.int32)
    begun = {name: torch.cat([t[0, :9], t[1, :5]])[None] for name, t in x.items()}
    packed = None if rotary is None else tuple(torch.cat([t[:9], t[:5]]) for t in rotary)
    state = nha_attention(**begun, **settings, rotary=packed, cu_seqlens=cuts)[1]
    outs, lses = [], []
    for i in range(30):
        piece = {name: torch.stack([t[0, 9 + i], t[1, 5 + i]])[:, None] for name, t in x.items()}
        angles = None if rotary is None else tuple(torch.stack([t[9 + i], t[5 + i]])[:, None] for t in rotary)
        out, state, lse = nha_attention(**piece, **settings, rotary=angles, state=state)
        outs.append(out)
        lses.append(lse)
    found = {
        "out": torch.cat(outs, 1),
        "slots": torch.cat([a for a, _ in lses], 1),
        "window": torch.cat([b for _, b in lses], 1),
    }
    rows = lambda t: torch.stack([t[0, 9:39], t[1, 5:35]])  # noqa: E731
    assert_close(found, {"out": rows(whole[0]), "slots": rows(whole[2][0]), "window": rows(whole[2][1])}, 1e-9)


def test_trains_after_a_first_call_in_inference_mode():
    q, k, v, g = (torch.randn(1, 37, 2, 6, generator=torch.Generator().manual_seed(i)) for i in range(4))
    for keeper in (chunked_module._between, chunked_module._hidden):
        keeper.cache_clear()
    call = lambda *x: nha_attention(*x, -g.abs(), 5, backend="chunked")[0]  # noqa: E731
    with torch.inference_mode():
        wanted = call(q, k, v)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = call(*leaves)
    out.sum().backward()
    assert torch.equal(out, wanted) and all(x.grad.isfinite().all() for x in leaves)
