"""The loss of a head and its gradients, made at once, against autograd."""

import pytest
import torch
import torch.nn.functional as F

from models.modeling import NHAForCausalLM
from models.presets import pattern_config
from nha_eval.training import language
from nha_eval.training.head_loss import head_loss
from nha_eval.training.language import NextToken

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_slots": 4,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_against_autograd(chunk):
    gen = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*size, generator=gen, dtype=torch.float64).requires_grad_() for size in ((7, 5), (11, 5)))
    wanted = torch.tensor([0, 10, -100, 4, 4, -100, 7])
    exact = 3 * F.cross_entropy(hidden @ weight.t(), wanted, reduction="sum", ignore_index=-100)
    own = [x.detach().float().requires_grad_() for x in (hidden, weight)]
    found = 3 * head_loss(*own, wanted, chunk)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(torch.autograd.grad(found, own), torch.autograd.grad(exact, [hidden, weight]), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


def test_a_head_that_is_not_trained_gets_no_gradient():
    hidden, weight = torch.randn(4, 5, requires_grad=True), torch.randn(6, 5)
    head_loss(hidden, weight, torch.arange(4), 2).backward()
    assert hidden.grad.abs().sum() > 0 and weight.grad is None


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_trains_as_by_autograd(monkeypatch, dtype, tied):
    """Loss and gradients as where the logits are made anew in the backward pass, in several pieces, tied or not."""
    torch.manual_seed(0)
    model = NHAForCausalLM(pattern_config("nha", {**SIZES, "tie_word_embeddings": tied}, window=4))
    monkeypatch.setattr(language, "chunk_of", lambda vocabulary: 5)
    ids = torch.randint(0, 50, (2, 9))
    found = []
    for own in (True, False):
        if not own:
            monkeypatch.setattr(language, "plain_linear", lambda head: False)
        model.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = NextToken(model)(ids)
        loss.backward()
        found.append((loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (loss, gradients), (wanted, theirs) = found
    rough = 1e-5 if dtype == torch.float32 else 2e-2
    assert loss == pytest.approx(wanted, rel=rough / 10)
    for name, gradient in gradients.items():
        assert (gradient - theirs[name]).norm() <= rough * theirs[name].norm(), name
