"""SwiGLU's product and its gradients against torch's own in fp64, interpreted without a GPU; and a layer that goes by it."""

import importlib.util
import itertools

import pytest
import torch
import torch.nn.functional as F
from nha_cases import over

from kernels.glu import swiglu

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
# Nothing; one; less than a program's elements by one, as many, and several programs' with a rest, in runs of eight and not.
SHAPES = [(0,), (2, 0, 8), (), (1,), (1023,), (2, 512), (3, 5, 136), (7, 11, 29)]
# As projections give them; halves of one product; turned, with a gradient that is one number everywhere; and gates whose
# sigmoid is 0 or 1 to the last bit, and its exponential more than fp32 holds.
KINDS = ["whole", "halves", "turned", "far"]
NAMES = ("y", "d_gate", "d_up")


def distances(shape, how, dtype, device="cpu"):
    """How far y and its gradients are, over the largest of each."""
    from kernels.standing import by_kernels

    gen = torch.Generator().manual_seed(sum(shape))
    rand = lambda: torch.randn(shape, generator=gen).to(dtype)  # noqa: E731
    gate, up, d_y = rand() * (100 if how == "far" else 3), rand(), rand()
    if how == "turned":
        d_y = torch.ones((), dtype=dtype).expand(shape)
    exact = [one.double().requires_grad_() for one in (gate, up)]
    wanted = [F.silu(exact[0]) * exact[1]]
    wanted += torch.autograd.grad(wanted[0], exact, d_y.double())

    given = [one.to(device).requires_grad_() for one in (gate, up)]
    assert by_kernels(given[0])
    inside = given
    if how == "halves" and shape:
        wide = torch.cat(given, -1)
        inside = wide[..., : shape[-1]], wide[..., shape[-1] :]
    if how == "turned":
        inside = [one.movedim(0, -1).contiguous().movedim(-1, 0) if shape else one for one in given]
    y = swiglu(*inside)
    assert y.is_contiguous() and y.dtype == dtype and len(y.grad_fn.saved_tensors) == 2
    found = [y, *torch.autograd.grad(y, given, d_y.to(device))]
    pairs = [(a.detach().cpu().double(), b.detach()) for a, b in zip(found, wanted, strict=True)]
    far = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) if b.numel() else 0.0 for a, b in pairs]
    return dict(zip(NAMES, far, strict=True))


def layer_distances(device="cpu"):
    """How far a model whose MLPs go by the kernel is from one in fp64: its logits and gradients, over the largest of each."""
    from tiny import tiny, tokens

    from models import layers

    took = []
    right, layers.swiglu = layers.swiglu, lambda gate, up: took.append(gate.shape) or right(gate, up)
    try:
        found = []
        for dtype in (torch.float32, torch.float64):
            model = tiny(mixers="attention", num_hidden_layers=1, initializer_range=0.05).to(device, dtype)
            logits = model(tokens(2, 9).to(device)).logits
            logits.square().sum().backward()
            found.append({"logits": logits.detach()} | {name: p.grad for name, p in model.named_parameters()})
    finally:
        layers.swiglu = right
    assert took == [(2, 9, 80)]
    return {name: float((found[0][name] - b).abs().max() / b.abs().max()) for name, b in found[1].items()}


CASES = list(itertools.product(SHAPES, KINDS))


@needs_triton
@pytest.mark.parametrize("interpreted", [(distances, *case, torch.float32) for case in CASES], ids=lambda x: str(x[1:3]))
def test_against_the_definition(interpreted, answers):
    assert not over(answers[interpreted].result(), 1e-6)


@needs_triton
@pytest.mark.parametrize("interpreted", [(layer_distances,)], ids=["layer"])
def test_a_layer_against_one_in_double_precision(interpreted, answers):
    assert not over(answers[interpreted].result(), 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-6), (torch.bfloat16, 5e-3), (torch.float16, 6e-4)], ids=str)
@pytest.mark.parametrize(("shape", "how"), [*CASES, ((8, 1024, 1232), "whole")], ids=str)
def test_against_the_definition_on_a_gpu(shape, how, dtype, bound):
    assert not over(distances(shape, how, dtype, "cuda"), bound)


@pytest.mark.gpu
def test_a_layer_against_one_in_double_precision_on_a_gpu():
    assert not over(layer_distances("cuda"), 1e-4)


@pytest.mark.parametrize("dtypes", [(torch.float64,) * 2, (torch.float32,) * 2, (torch.float32, torch.bfloat16)], ids=str)
def test_elsewhere_it_is_torch_s_own(dtypes):
    gate, up = (torch.randn(3, 5, dtype=dtype) for dtype in dtypes)
    assert torch.equal(swiglu(gate, up), F.silu(gate) * up)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"gate has shape \[2, 3\] and up \[3\]; wanted the same"):
        swiglu(torch.zeros(2, 3), torch.zeros(3))
