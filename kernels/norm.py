"""RMSNorm (arXiv 1910.07467) of rows, through SiLU first where that is asked for, in any dtype of result.

On a GPU a training's norms are one kernel each way, where torch takes two forward and three backward, and more with an
activation before and a cast behind. Without a gradient, and where torch compiles, torch's own are taken.

    from kernels.norm import rms_norm
    y = rms_norm(x, weight, 1e-6, silu=True, dtype=torch.bfloat16)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.standing import by_kernels

WIDEST = 8192  # that the kernel, which has a row at once, is for


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, silu: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """weight * a / sqrt(mean(a * a) + eps) over the last dimension of x [..., D], with a = x, or silu(x); weight [D].

    dtype: of the result (None: the wider of x's and weight's). Sums are in fp32 at the least, and the result is rounded once
    where it is made by the kernel, whose gradients have none themselves; without a gradient torch's SiLU is rounded too, so
    that the last bit may be another. ValueError where weight does not fit.
    """
    if weight.dim() != 1 or x.dim() == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"x has shape {list(x.shape)} and weight {list(weight.shape)}; wanted [..., D] and [D]")
    wide = torch.promote_types(x.dtype, weight.dtype)
    dtype = wide if dtype is None else dtype
    trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if trained and torch.float64 not in (wide, dtype) and x.shape[-1] <= WIDEST and by_kernels(x):
        from kernels.norm_triton import norm

        return norm(x, weight, eps, silu, dtype)
    a = F.silu(x) if silu else x
    return F.rms_norm(a.to(wide), weight.shape, weight.to(wide), eps).to(dtype)
