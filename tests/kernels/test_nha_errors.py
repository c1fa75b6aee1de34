"""Every wrong argument of the operator is refused with a ValueError that names it and what is wanted."""

import pytest
import torch

from kernels import nha_attention, sliding_window_attention


def good():
    gen = torch.Generator().manual_seed(0)
    shape = lambda heads, dim: torch.randn(1, 6, heads, dim, generator=gen)  # noqa: E731
    return {"q": shape(4, 16), "k": shape(2, 16), "v": shape(2, 24), "g": -shape(2, 5).abs(), "window": 3}


def state_of(window):
    return nha_attention(**(good() | {"window": window}), return_state=True)[1]


WRONG = [
    ("q", lambda x: {"q": x["q"][0]}, r"q has shape \[6, 4, 16\]; wanted \[B, T, HQ, K\]"),
    ("q int", lambda x: {"q": x["q"].long()}, "q has dtype torch.int64"),
    ("k time", lambda x: {"k": x["k"][:, :5]}, r"k has shape \[1, 5, 2, 16\]; wanted \[1, 6, H, 16\]"),
    ("k dtype", lambda x: {"k": x["k"].double()}, "k has dtype torch.float64; wanted torch.float32"),
    ("heads", lambda x: {"q": x["q"][:, :, :3]}, "q has 3 heads and k has 2"),
    ("v heads", lambda x: {"v": x["v"][:, :, :1]}, r"v has shape \[1, 6, 1, 24\]"),
    ("g heads", lambda x: {"g": x["g"][:, :, :1]}, r"g has shape \[1, 6, 1, 5\]; wanted \[1, 6, 2, M\]"),
    ("g positive", lambda x: {"g": x["g"] + 9}, "g has a positive value"),
    ("g slots", lambda x: {"g": -torch.rand(1, 6, 2, 257)}, "M from 1 to 256"),
    ("window", lambda x: {"window": -1}, "window is -1; wanted an int >= 0"),
    ("window type", lambda x: {"window": 2.5}, "window is 2.5"),
    ("delay", lambda x: {"slot_delay": -2}, "slot_delay is -2"),
    ("rotary", lambda x: {"rotary": (torch.ones(6, 7), torch.ones(6, 7))}, r"rotary cos has shape \[6, 7\]; wanted \[6, 8\]"),
    ("rotary pair", lambda x: {"rotary": torch.ones(6, 8)}, "wanted a pair"),
    ("slot_q", lambda x: {"slot_q": x["k"]}, "slot_q has shape"),
    ("slot_k", lambda x: {"slot_k": x["q"]}, "slot_k has shape"),
    ("slot_bias", lambda x: {"slot_bias": torch.zeros(2)}, r"slot_bias has shape \[2\]; wanted \[4\]"),
    ("empty_slots", lambda x: {"empty_slots": "drop"}, "empty_slots is 'drop'; wanted one of 'mask', 'sink'"),
    ("cu_seqlens end", lambda x: {"cu_seqlens": torch.tensor([0, 5], dtype=torch.int32)}, "T = 6 last"),
    (
        "cu_seqlens batch",
        lambda x: {n: x[n].repeat(2, 1, 1, 1) for n in "qkvg"} | {"cu_seqlens": torch.tensor([0, 6])},
        "B = 1",
    ),
    ("backend", lambda x: {"backend": "cuda"}, "backend is 'cuda'"),
    ("state", lambda x: {"state": 3}, "state is a int"),
    ("state window", lambda x: {"state": state_of(2)}, "state was made with window 2"),
    ("state rotary", lambda x: {"state": state_of(3), "rotary": (torch.ones(6, 8), torch.ones(6, 8))}, "made without rotary"),
    ("device", lambda x: {"k": x["k"].to("meta")}, "k is on meta; wanted cpu"),
]


@pytest.mark.parametrize(("change", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_refused(change, message):
    x = good()
    with pytest.raises(ValueError, match=message):
        nha_attention(**(x | change(x)))


def test_sliding_window_wants_a_window():
    x = good()
    with pytest.raises(ValueError, match="window is 0; wanted an int >= 1"):
        sliding_window_attention(x["q"], x["k"], x["v"], 0)
