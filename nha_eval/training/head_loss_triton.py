"""The cross-entropy of rows of logits and its gradient in two readings of them.

losses = losses_and_gradient(logits, wanted)    # logits then hold the gradient
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.common import log2e, met
from kernels.nha.triton.launch import launch

BLOCK = 2048  # logits that a program holds at once


@triton.jit
def head_loss_kernel(logits, wanted, losses, V: tl.constexpr, BLOCK: tl.constexpr):
    """Row program_id(0) of V logits, contiguous; nothing is lost, and no gradient had, where its token is below 0. Lanes keep
    their own largest logit, so that a block ends with no reduction."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    answer = tl.load(wanted + row)
    most = tl.full([BLOCK], -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    right = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        keep = start + lane < V
        z = tl.load(logits + row * V + start + lane, mask=keep, other=0.0).to(tl.float32) * log2e()
        most, total, _ = met(most, total, z, keep)
        right += tl.where(start + lane == answer, z, 0.0)
    largest = tl.max(most, 0)
    lse = largest + tl.log2(tl.sum(total * tl.exp2(most - largest), 0))
    counted = answer >= 0
    tl.store(losses + row, tl.where(counted, (lse - tl.sum(right, 0)) / log2e(), 0.0))
    for start in range(0, V, BLOCK):
        keep = start + lane < V
        at = row * V + start + lane
        z = tl.load(logits + at, mask=keep, other=0.0).to(tl.float32) * log2e()
        gradient = tl.exp2(z - lse) - tl.where(start + lane == answer, 1.0, 0.0)
        tl.store(logits + at, tl.where(counted, gradient, 0.0).to(logits.dtype.element_ty), mask=keep)


def losses_and_gradient(logits: Tensor, wanted: Tensor) -> Tensor:
    """-log softmax(logits)[wanted] in nats, 0 where `wanted` is negative: [N] fp32; `logits` are overwritten by the derivative
    of the sum by them. logits [N, V], contiguous, finite; wanted [N] int64, below V. ValueError for other shapes.
    """
    if logits.dim() != 2 or not logits.is_contiguous() or wanted.shape != logits.shape[:1]:
        raise ValueError(
            f"logits are {tuple(logits.shape)} and tokens {tuple(wanted.shape)}; wanted [N, V], contiguous, and [N]"
        )
    rows, width = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        launch(head_loss_kernel, (rows,), logits, wanted.contiguous(), losses, V=width, BLOCK=BLOCK, num_warps=8)
    return losses
