"""The cross-entropy of a head's next token with its gradient made at once: the logits of a vocabulary are the largest tensors
there are, and neither kept nor made twice.

    total = head_loss(hidden, head.weight, wanted, chunk=4096)      # summed over positions

Legend: N positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.nha.op import autocast
from kernels.standing import by_kernels

IGNORED = -100


def head_loss(hidden: Tensor, weight: Tensor, wanted: Tensor, chunk: int) -> Tensor:
    """-log softmax(hidden @ weight.T)[wanted] in nats, summed over the positions where `wanted` is not -100: a scalar in fp32.

    hidden [N, hidden], weight [V, hidden], wanted [N] int64; logits are of `chunk` positions at a time, in autocast's dtype
    where there is one. Gradients go to hidden and weight, and have none themselves; in fp16 those of unlikely tokens are 0, as
    they are made before a loss is scaled.
    """
    return _HeadLoss.apply(hidden, weight, wanted, chunk)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, wanted: Tensor, chunk: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        inputs, by = autocast(hidden, weight)
        by_hidden = torch.empty_like(hidden)
        by_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for mine, answers, out in zip(inputs.split(chunk), wanted.split(chunk), by_hidden.split(chunk), strict=True):
            losses, by_logits = _losses(mine @ by.t(), answers)
            total += losses
            out.copy_(by_logits @ by)
            if by_weight is not None:
                by_weight += by_logits.t() @ mine
        ctx.save_for_backward(by_hidden, by_weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        return by_hidden * scale, None if by_weight is None else by_weight * scale, None, None


def _losses(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(the sum over positions, its derivative by the logits, in their dtype) of logits [N, V]."""
    if by_kernels(logits):
        from nha_eval.training.head_loss_triton import losses_and_gradient

        return losses_and_gradient(logits, wanted).sum(), logits
    logp = F.log_softmax(logits.float(), -1)
    total = F.nll_loss(logp, wanted, reduction="sum", ignore_index=IGNORED)
    counted = wanted != IGNORED
    by_logits = logp.exp_()
    by_logits.scatter_add_(1, torch.where(counted, wanted, 0)[:, None], -counted[:, None].to(logp.dtype))
    return total, by_logits.mul_(counted[:, None]).to(logits.dtype)
