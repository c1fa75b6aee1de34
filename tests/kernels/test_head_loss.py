"""The cross-entropy of logits and its gradient against autograd in fp64, interpreted without a GPU as in `interpreting`."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from nha_cases import over

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
# Less than a block, a block exactly, and several of which the last is in part filled.
WIDTHS = [1, 17, 4096, 9001]


def distances(width: int, size: float, dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """How far losses and gradient are, over the largest of each or a hundredth of the logits' `size`."""
    from nha_eval.training.head_loss_triton import losses_and_gradient

    gen = torch.Generator().manual_seed(width)
    logits = size * torch.randn(5, width, generator=gen).to(dtype)
    # The last token, the first, one that is not counted, and one far above all others.
    wanted = torch.tensor([width - 1, 0, -100, width // 2, width // 3])
    logits[3, width // 2] = 9 * size
    exact = logits.double().requires_grad_()
    losses = F.cross_entropy(exact, wanted, reduction="none")
    (by_logits,) = torch.autograd.grad(losses.sum(), exact)
    given = logits.clone().to(device)
    found = losses_and_gradient(given, wanted.to(device)).cpu()
    assert found[2] == 0 and not given[2].any()
    pairs = {"losses": (found, losses.detach()), "gradient": (given.cpu(), by_logits)}
    return {name: float((a.double() - b).abs().max() / b.abs().max().clamp(min=size / 100)) for name, (a, b) in pairs.items()}


CASES = [(width, size) for width in WIDTHS for size in (1.0, 30.0)]


@pytest.mark.parametrize("interpreted", [(distances, *case, torch.float32) for case in CASES], ids=lambda x: str(x[1:3]))
def test_against_autograd(interpreted, answers):
    assert not over(answers[interpreted].result(), 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-3)], ids=str)
@pytest.mark.parametrize("case", [*CASES, (49152, 4.0), (151_936, 4.0)], ids=str)
def test_against_autograd_on_a_gpu(case, dtype, bound):
    assert not over(distances(*case, dtype, "cuda"), bound)


def test_what_it_cannot_take():
    from nha_eval.training.head_loss_triton import losses_and_gradient

    with pytest.raises(ValueError, match="contiguous"):
        losses_and_gradient(torch.zeros(2, 4), torch.zeros(3, dtype=torch.long))
