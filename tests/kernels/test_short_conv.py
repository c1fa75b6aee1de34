"""The kernel of the short convolution and its gradients against torch's own in fp64, interpreted without a GPU."""

import importlib.util
import itertools

import pytest
import torch
import torch.nn.functional as F
from nha_cases import over

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
# (B, T, D, W): less than a tile of either, tiles exactly, and several with a rest; fewer tokens than taps; one tap.
SHAPES = [(2, 5, 3, 4), (1, 128, 64, 4), (3, 150, 70, 3), (2, 2, 65, 4), (2, 70, 8, 1)]
KINDS = [(silu, bias, "rows") for silu, bias in itertools.product((True, False), repeat=2)]
# Packed sequences, and channels that are a part of a wider tensor's, as Mamba-2's are.
KINDS += [(True, True, "packed"), (True, True, "part")]
NAMES = ("y", "d_x", "d_weight", "d_bias", "after")


def by_definition(x, weight, bias, silu):
    """fp64, a token at a time over [B, T, D]."""
    taps = weight.shape[1]
    rows = []
    for t in range(x.shape[1]):
        terms = [weight[:, i] * x[:, t - taps + 1 + i] for i in range(taps) if t - taps + 1 + i >= 0]
        y = sum(terms) + (0 if bias is None else bias)
        rows.append(F.silu(y) if silu else y)
    return torch.stack(rows, 1)


def distances(shape, silu, biased, how, dtype, device="cpu"):
    """How far y, its gradients and the inputs that are kept are, over the largest of each."""
    from kernels.short_conv import short_convolution
    from kernels.standing import by_kernels

    rows, time, channels, taps = shape
    gen = torch.Generator().manual_seed(time)
    rand = lambda *size: torch.randn(*size, generator=gen).to(dtype)  # noqa: E731
    x, d_y = (rand(rows, time, channels) for _ in range(2))
    weight, bias = rand(channels, taps), rand(channels) if biased else None
    exact = [None if one is None else one.double().requires_grad_() for one in (x, weight, bias)]
    wanted = [by_definition(*exact, silu)]
    wanted += torch.autograd.grad(wanted[0], [one for one in exact if one is not None], d_y.double())

    given = [None if one is None else one.to(device).requires_grad_() for one in (x, weight, bias)]
    assert by_kernels(given[0])
    inside, bounds = given[0], None
    if how == "packed":
        inside = given[0].flatten(0, 1)[None]
        bounds = torch.arange(rows + 1, dtype=torch.int32, device=device) * time
    if how == "part":
        wide = torch.cat([given[0].new_ones(rows, time, 5), given[0], given[0].new_ones(rows, time, 2)], -1)
        inside = wide[..., 5 : 5 + channels]
    y, after = short_convolution(inside, *given[1:], silu=silu, cu_seqlens=bounds, return_state=True)
    y = y.reshape(rows, time, channels)
    found = [y, *torch.autograd.grad(y, [one for one in given if one is not None], d_y.to(device))]
    kept = F.pad(x.double(), (0, 0, taps - 1, 0))[:, time:]
    names = [name for name in NAMES if biased or name != "d_bias"]
    return {
        name: float((a.detach().cpu().double() - b).abs().max() / b.abs().max().clamp(min=1e-6)) if b.numel() else 0.0
        for name, a, b in zip(names, [*found, after], [*wanted, kept], strict=True)
    }


CASES = list(itertools.product(SHAPES, KINDS))


@pytest.mark.parametrize(
    "interpreted", [(distances, shape, *kind, torch.float32) for shape, kind in CASES], ids=lambda x: str(x[1:5])
)
def test_against_the_definition(interpreted, answers):
    assert not over(answers[interpreted].result(), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)], ids=str)
@pytest.mark.parametrize(("shape", "kind"), [*CASES, ((4, 1000, 1536, 4), KINDS[0])], ids=str)
def test_against_the_definition_on_a_gpu(shape, kind, dtype, bound):
    assert not over(distances(shape, *kind, dtype, "cuda"), bound)


@pytest.mark.gpu
def test_gradients_are_the_same_to_the_bit_and_a_graph_takes_them():
    from kernels.short_conv import short_convolution

    gen = torch.Generator().manual_seed(0)
    x, d_y = (torch.randn(4, 300, 200, generator=gen).cuda() for _ in range(2))
    weight = torch.randn(200, 4, generator=gen).cuda()
    x.requires_grad_(), weight.requires_grad_()

    def both():
        y, _ = short_convolution(x, weight, silu=True)
        return y, *torch.autograd.grad(y, (x, weight), d_y)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        first = both()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = both()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(first, captured, strict=True))


@pytest.mark.gpu
def test_rows_that_stand_further_apart_than_32_bits_count():
    from kernels.short_conv import short_convolution

    apart = 2**31
    whole = torch.zeros(apart + 70 * 64, dtype=torch.bfloat16, device="cuda")
    x = whole.as_strided((2, 70, 64), (apart, 64, 1)).normal_()
    weight = torch.randn(64, 4, device="cuda")
    near, far = x.clone().requires_grad_(), x.requires_grad_()
    found = []
    for given in (near, far):
        y, _ = short_convolution(given, weight, silu=True)
        found.append((y, *torch.autograd.grad(y.square().sum(), given)))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
