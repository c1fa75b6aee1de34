"""What a step of one token a row begins with, where the cache is of fixed shapes: one kernel instead of a dozen small ones.

cos, sin = start_step(seen, filled, mask, inv_freq, 1.0, torch.bfloat16)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.counts import power_of_2
from kernels.nha.triton.launch import launch


@triton.jit(do_not_specialize=["scaling", "S"])
def step_start_kernel(seen, filled, mask, inv_freq, cos, sin, scaling, S, K: tl.constexpr, KP: tl.constexpr):
    """Row program_id(0): K angles, and its new place in the mask."""
    b, k = tl.program_id(0), tl.arange(0, KP)
    angle = tl.load(seen + b).to(tl.float32) * tl.load(inv_freq + k, mask=k < K, other=0.0).to(tl.float32)
    tl.store(cos + b * K + k, (tl.cos(angle) * scaling).to(cos.dtype.element_ty), mask=k < K)
    tl.store(sin + b * K + k, (tl.sin(angle) * scaling).to(sin.dtype.element_ty), mask=k < K)
    place = tl.load(filled)
    tl.store(mask + b * S + place, 1, mask=place < S)


def start_step(
    seen: Tensor, filled: Tensor, mask: Tensor, inv_freq: Tensor, scaling: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """cos and sin [B, 1, K/2] in `dtype`, times `scaling`, of the angles seen[b] * inv_freq; mask[b, filled] is set in place.

    seen [B] int64; filled, of no dimension, int64 (from S on no place is marked); mask [B, S] bool, contiguous; inv_freq [K/2].
    """
    rows, K = len(seen), len(inv_freq)
    cos, sin = (torch.empty(rows, 1, K, dtype=dtype, device=seen.device) for _ in range(2))
    launch(
        step_start_kernel, (rows,), seen, filled, mask.view(torch.uint8), inv_freq, cos, sin, float(scaling), mask.shape[1],
        K=K, KP=power_of_2(K), num_warps=1,
    )  # fmt: skip
    return cos, sin
