"""KL of logits and its gradient against autograd in fp64, interpreted without a GPU as in `interpreting`."""

import importlib.util

import pytest
import torch
from nha_cases import over

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
# Less than a block, a block exactly, and several of which the last is in part filled.
WIDTHS = [1, 17, 4096, 9001]


def distances(width: int, size: float, temperature: float, dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """How far KL and gradient are, over the largest of each or a hundredth of the logits' `size`, with which rounding goes: one
    token alone has no KL, and a product that a multiply-add keeps unrounded is off by that."""
    from nha_eval.hybridize.head_kl_triton import kl_and_gradient

    gen = torch.Generator().manual_seed(width)
    student, teacher = (size * torch.randn(5, width, generator=gen).to(dtype) for _ in range(2))
    # Rows that are alike, and rows of one certain token each.
    student[1] = teacher[1]
    student[2, 0], teacher[2, -1] = 9 * size, 9 * size
    exact = student.double().requires_grad_()
    logq, logp = (torch.log_softmax(x.double() / temperature, -1) for x in (exact, teacher))
    wanted = (logp.exp() * (logp - logq)).sum(-1)
    (by_logits,) = torch.autograd.grad(wanted.sum(), exact)
    given = student.clone().to(device)
    kl = kl_and_gradient(given, teacher.to(device), temperature)
    found = {"kl": (kl.cpu(), wanted.detach()), "gradient": (given.cpu(), by_logits)}
    return {name: float((a.double() - b).abs().max() / b.abs().max().clamp(min=size / 100)) for name, (a, b) in found.items()}


CASES = [(width, size, temperature) for width in WIDTHS for size, temperature in ((1.0, 1.0), (30.0, 2.0))]


@pytest.mark.parametrize("interpreted", [(distances, *case, torch.float32) for case in CASES], ids=lambda x: str(x[1:4]))
def test_against_autograd(interpreted, answers):
    assert not over(answers[interpreted].result(), 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-3)], ids=str)
@pytest.mark.parametrize("case", [*CASES, (49152, 4.0, 1.0), (151_936, 4.0, 1.0)], ids=str)
def test_against_autograd_on_a_gpu(case, dtype, bound):
    assert not over(distances(*case, dtype, "cuda"), bound)


def test_what_it_cannot_take():
    from nha_eval.hybridize.head_kl_triton import kl_and_gradient

    with pytest.raises(ValueError, match="wanted both of one shape, contiguous"):
        kl_and_gradient(torch.zeros(2, 4), torch.zeros(2, 5), 1.0)
