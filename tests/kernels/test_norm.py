"""RMSNorm, SiLU before it or not, and its gradients against autograd in fp64, interpreted without a GPU."""

import importlib.util
import itertools

import pytest
import torch
import torch.nn.functional as F
from nha_cases import over

from kernels.norm import rms_norm

# (rows, columns): none; one of two; fewer columns than a tile's by one and as many; several programs with a rest; wide rows.
SHAPES = [(0, 8), (1, 2), (5, 63), (3, 64), (70, 130), (2, 2500), (1100, 4)]
KINDS = list(itertools.product((False, True), ("whole", "turned")))
NAMES = ("y", "d_x", "d_weight")


def distances(shape, silu, how, dtype, out, device="cpu"):
    """How far y and its gradients are, over the largest of each; weights are in fp32."""
    from kernels.standing import by_kernels

    gen = torch.Generator().manual_seed(sum(shape))
    x, d_y = (torch.randn(shape, generator=gen).to(kind) for kind in (dtype, out))
    weight = torch.randn(shape[1], generator=gen)
    exact = [one.double().requires_grad_() for one in (x, weight)]
    a = F.silu(exact[0]) if silu else exact[0]
    wanted = [exact[1] * a / (a.square().mean(-1, keepdim=True) + 1e-5).sqrt()]
    wanted += torch.autograd.grad(wanted[0], exact, d_y.double())
    given = [one.to(device).requires_grad_() for one in (x, weight)]
    assert by_kernels(given[0])
    inside = given[0].t().contiguous().t() if how == "turned" else given[0]
    y = rms_norm(inside, given[1], 1e-5, silu=silu, dtype=out)
    assert y.dtype == out and y.is_contiguous() and type(y.grad_fn).__name__ == "_NormBackward"
    found = [y, *torch.autograd.grad(y, given, d_y.to(device))]
    pairs = [(p.detach().cpu().double(), q.detach()) for p, q in zip(found, wanted, strict=True)]
    far = [float((p - q).abs().max() / q.abs().max().clamp(min=1e-6)) if q.numel() else 0.0 for p, q in pairs]
    return dict(zip(NAMES, far, strict=True))


CASES = list(itertools.product(SHAPES, KINDS))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize(
    "interpreted", [(distances, shape, *kind, torch.float32, torch.float32) for shape, kind in CASES], ids=lambda x: str(x[1:4])
)
def test_against_autograd(interpreted, answers):
    assert not over(answers[interpreted].result(), 2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "out", "bound"),
    [
        (torch.float32, torch.float32, 2e-5),
        (torch.float32, torch.bfloat16, 1e-2),
        (torch.bfloat16, torch.bfloat16, 1e-2),
        (torch.float16, torch.float16, 2e-3),
    ],
    ids=str,
)
@pytest.mark.parametrize(("shape", "kind"), [*CASES, ((32768, 512), (True, "whole")), ((600, 8192), (False, "whole"))], ids=str)
def test_against_autograd_on_a_gpu(shape, kind, dtype, out, bound):
    assert not over(distances(shape, *kind, dtype, out, "cuda"), bound)


@pytest.mark.parametrize("silu", [False, True])
def test_without_kernels_it_is_the_same(silu):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True), torch.randn(6, dtype=torch.float64)
    a = F.silu(x) if silu else x
    wanted = weight * a * (a.square().mean(-1, keepdim=True) + 1e-3).rsqrt()
    torch.testing.assert_close(rms_norm(x, weight, 1e-3, silu=silu), wanted)
    half = rms_norm(x.bfloat16(), weight.float(), 1e-3, silu=silu)
    assert half.dtype == torch.float32
    assert rms_norm(x.float(), weight.float(), 1e-3, dtype=torch.bfloat16).dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), wanted, rtol=2e-2, atol=2e-2)


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"wanted \[\.\.\., D\] and \[D\]"):
        rms_norm(torch.zeros(2, 4), torch.ones(3), 1e-6)
