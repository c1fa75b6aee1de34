"""KL between two rows of logits and its gradient in two readings of them, where torch takes some twenty passes.

kl = kl_and_gradient(student, teacher, temperature=1.0)    # student then holds the gradient
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.common import log2e, met
from kernels.nha.triton.launch import launch

BLOCK = 4096  # logits of each of both that a program holds at once


@triton.jit(do_not_specialize=["per_temperature"])
def kl_kernel(student, teacher, kl, per_temperature, V: tl.constexpr, BLOCK: tl.constexpr):
    """Row program_id(0) of both, V logits each, contiguous. Lanes keep their own largest logit, so that a block ends with no
    reduction; -1e30 in the place of -inf, whose differences are numbers."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    turn = per_temperature * log2e()
    most_s = tl.full([BLOCK], -1e30, tl.float32)
    most_t = tl.full([BLOCK], -1e30, tl.float32)
    sum_s = tl.zeros([BLOCK], tl.float32)
    sum_t = tl.zeros([BLOCK], tl.float32)
    apart = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        keep = start + lane < V
        at = row * V + start + lane
        s = tl.load(student + at, mask=keep, other=0.0).to(tl.float32) * turn
        t = tl.load(teacher + at, mask=keep, other=0.0).to(tl.float32) * turn
        most_s, sum_s, _ = met(most_s, sum_s, s, keep)
        most_t, sum_t, shrink = met(most_t, sum_t, t, keep)
        apart = apart * shrink + tl.where(keep, tl.exp2(t - most_t) * (t - s), 0.0)
    all_s, all_t = tl.max(most_s, 0), tl.max(most_t, 0)
    here = tl.exp2(most_t - all_t)
    total_t = tl.sum(sum_t * here, 0)
    lse_s = all_s + tl.log2(tl.sum(sum_s * tl.exp2(most_s - all_s), 0))
    lse_t = all_t + tl.log2(total_t)
    found = tl.sum(apart * here, 0) / total_t + lse_s - lse_t
    tl.store(kl + row, found / log2e())
    for start in range(0, V, BLOCK):
        keep = start + lane < V
        at = row * V + start + lane
        s = tl.load(student + at, mask=keep, other=0.0).to(tl.float32) * turn
        t = tl.load(teacher + at, mask=keep, other=0.0).to(tl.float32) * turn
        gradient = (tl.exp2(s - lse_s) - tl.exp2(t - lse_t)) * per_temperature
        tl.store(student + at, gradient.to(student.dtype.element_ty), mask=keep)


def kl_and_gradient(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of softmax(logits / temperature), in nats: [N] fp32; `student` is overwritten by the derivative by
    its logits. Both [N, V], contiguous, of one dtype and device, finite.
    """
    if student.shape != teacher.shape or not (student.is_contiguous() and teacher.is_contiguous()):
        raise ValueError(f"logits are {tuple(student.shape)} and {tuple(teacher.shape)}; wanted both of one shape, contiguous")
    rows, width = student.shape
    kl = torch.empty(rows, dtype=torch.float32, device=student.device)
    if rows:
        launch(kl_kernel, (rows,), student, teacher, kl, 1.0 / temperature, V=width, BLOCK=BLOCK, num_warps=8)
    return kl
