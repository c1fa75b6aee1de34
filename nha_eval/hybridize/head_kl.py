"""KL between two heads' distributions with its gradient made at once: the logits of a vocabulary are the largest tensors there
are, and neither kept nor made twice.

    loss = head_kl(student_hidden, teacher_hidden, student_head, teacher_head, temperature=1.0)      # summed over positions
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.nha.op import HAS_TRITON

CHUNK = 2048  # positions whose logits are held at once


def head_kl(student: Tensor, teacher: Tensor, student_head: nn.Linear, teacher_head: nn.Linear, temperature: float) -> Tensor:
    """KL(teacher || student), in nats, of softmax(head(hidden) / temperature), summed over positions: a scalar in fp32.

    student, teacher: hidden states [N, hidden]. A gradient goes to the student's hidden states alone: heads are frozen.
    """
    return _HeadKL.apply(student, teacher, student_head, teacher_head, temperature)


class _HeadKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, student_head: nn.Linear, teacher_head: nn.Linear, temperature: float
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=student.device)
        gradient = torch.empty_like(student)
        pieces = zip(student.split(CHUNK), teacher.split(CHUNK), gradient.split(CHUNK), strict=True)
        for mine, theirs, out in pieces:
            kl, by_logits = _kl(student_head(mine), teacher_head(theirs), temperature)
            total += kl
            out.copy_(F.linear(by_logits.to(student_head.weight.dtype), student_head.weight.T))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None, None


def _kl(found: Tensor, wanted: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(the sum over positions, its derivative by the student's logits) of both logits [N, vocabulary]."""
    if HAS_TRITON and found.is_cuda:
        from nha_eval.hybridize.head_kl_triton import kl_and_gradient

        return kl_and_gradient(found, wanted.to(found.dtype), temperature).sum(), found
    found, wanted = (F.log_softmax(logits.float().div_(temperature), -1) for logits in (found, wanted))
    p = wanted.exp()
    kl = torch.linalg.vecdot(p, wanted.sub_(found)).sum()
    # The derivative by the logits is (q - p) / temperature.
    return kl, found.exp_().sub_(p).div_(temperature)
