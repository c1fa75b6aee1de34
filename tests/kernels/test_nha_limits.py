"""What NHA becomes at the ends of its window (gated slot attention, causal softmax), and the window alone."""

import pytest
import torch
import torch.nn.functional as F
from nha_cases import Case, assert_close

from kernels import nha_attention, sliding_window_attention


@pytest.mark.parametrize("backend", ["recurrent", "chunked"])
def test_window_zero_is_gsa_of_flash_linear_attention(backend):
    naive = pytest.importorskip("fla.ops.gsa.naive").naive_recurrent_gsa
    case = Case(70, 0, 16, 2, "mask", None, False, False, False, "batch", 1.0)
    x, settings = case.inputs(torch.float32)
    out, _ = nha_attention(**x, **settings, scale=1.0, backend=backend)
    # Theirs takes what a token writes, 1 - a, as an argument of its own, and gives time third.
    theirs, _ = naive(x["q"], x["k"], x["v"], s=-torch.expm1(x["g"]), g=x["g"], scale=1.0)
    assert_close({"out": out}, {"out": theirs if theirs.shape == out.shape else theirs.transpose(1, 2)}, 1e-5)


@pytest.mark.parametrize("backend", ["recurrent", "chunked", "auto"])
@pytest.mark.parametrize("window", [None, "T", 1000])
def test_full_window_is_causal_softmax(backend, window):
    case = Case(70, window, 16, 3, "mask", None, False, False, False, "batch", 1.0)
    x, settings = case.inputs()
    out, _ = nha_attention(**x, **settings, backend=backend)
    q, k, v = (t.transpose(1, 2) for t in (x["q"], x["k"], x["v"]))
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
    assert_close({"out": out}, {"out": wanted}, 1e-9)


@pytest.mark.parametrize("window", [1, 7, 64, 500])
def test_sliding_window_is_softmax_under_a_band(window):
    case = Case(150, window, 1, 2, "mask", None, False, False, False, "batch", 1.0)
    x, _ = case.inputs()
    q, k, v = (t.transpose(1, 2) for t in (x["q"], x["k"], x["v"]))
    gap = torch.arange(150)[:, None] - torch.arange(150)
    band = (gap >= 0) & (gap < window)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=band, enable_gqa=True).transpose(1, 2)
    out, _ = sliding_window_attention(x["q"], x["k"], x["v"], window)
    head, state = sliding_window_attention(x["q"][:, :90], x["k"][:, :90], x["v"][:, :90], window, return_state=True)
    tail, _ = sliding_window_attention(x["q"][:, 90:], x["k"][:, 90:], x["v"][:, 90:], window, state=state)
    assert_close({"out": out, "cut": torch.cat([head, tail], 1)}, {"out": wanted, "cut": wanted}, 1e-9)


def test_half_precision_is_computed_in_single():
    case = Case(100, 16, 8, 2, "mask", None, False, True, False, "batch", 1.0)
    x, settings = case.inputs()
    wanted, _ = nha_attention(**x, **settings, backend="recurrent")
    for dtype, bound in ((torch.bfloat16, 6e-3), (torch.float16, 1e-3)):
        low = {name: t.to(dtype) for name, t in x.items()}
        out, _ = nha_attention(**low, **settings, backend="chunked")
        exact, _ = nha_attention(**{name: t.double() for name, t in low.items()}, **settings, backend="recurrent")
        assert out.dtype == dtype
        assert_close({"out": out}, {"out": exact}, bound)
    assert torch.isfinite(wanted).all()


@pytest.mark.slow
def test_memory_is_linear_in_time():
    """What a forward keeps for its backward at T = 2048 is four times that at T = 512, and a bit."""
    kept = {}
    for time in (512, 2048):
        case = Case(time, 16, 8, 1, "mask", None, False, False, False, "batch", 1.0, heads=1)
        x, settings = case.inputs(torch.float32)
        x = {name: t.requires_grad_() for name, t in x.items()}
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t):
            nha_attention(**x, **settings)[0].sum().backward()
        kept[time] = sum(sizes)
    assert kept[2048] < 4.2 * kept[512]
