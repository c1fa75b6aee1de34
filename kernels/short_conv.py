"""Short causal convolution, one filter a channel, as Gated DeltaNet and Mamba-2 put before their recurrences.

Legend: B batch, N sequences, T time, D channels, W taps.

    y_t = sum_{i < W} weight[:, i] * x_{t - W + 1 + i} + bias

What later tokens need is the last W - 1 inputs, zeros where a sequence has not had as many. Sequences may be packed; a tap
never reaches into another's tokens. On a GPU whole sequences go by a kernel of their own; what goes on from a state, and what
torch compiles, by torch's convolution.

    from kernels import short_convolution
    y, tail = short_convolution(x, weight, bias, silu=True, return_state=True)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.nha.op import autocast
from kernels.packing import Packing
from kernels.standing import by_kernels

MOST_TAPS = 8  # that the kernel, which reads W x W tiles, is for


def short_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    silu: bool = False,
    cu_seqlens: Tensor | None = None,
    state: Tensor | None = None,
    return_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The convolution of x [B, T, D] with weight [D, W] and bias [D], through SiLU where `silu` asks for it.

    cu_seqlens [N + 1]: bounds of packed sequences, then B == 1. state [N, W - 1, D]: the inputs before (N = B without
    cu_seqlens). Returns (y [B, T, D], state after the last token or None). ValueError where shapes do not fit.
    """
    taps = weight.shape[-1]
    if weight.dim() != 2 or x.dim() != 3 or weight.shape[0] != x.shape[-1]:
        raise ValueError(f"weight has shape {list(weight.shape)} and x {list(x.shape)}; wanted [D, W] and [B, T, D]")
    packing = None if cu_seqlens is None else Packing(cu_seqlens)
    rows = x if packing is None else packing.rows(x)
    count, time, channels = rows.shape
    if state is not None and state.shape != (count, taps - 1, channels):
        raise ValueError(f"state has shape {list(state.shape)}; wanted {[count, taps - 1, channels]}")
    by_kernel = state is None and taps <= MOST_TAPS and by_kernels(rows)
    if not by_kernel or return_state:
        before = rows.new_zeros(count, taps - 1, channels) if state is None else state.to(rows.dtype)
        whole = torch.cat([before, rows], 1)
    if by_kernel:
        from kernels.short_conv_triton import convolution

        y = convolution(*autocast(rows), weight, bias, silu)
    else:
        y = F.conv1d(whole.transpose(1, 2), weight[:, None].to(rows.dtype), bias, groups=channels).transpose(1, 2)
        y = F.silu(y) if silu else y
    after = None
    if return_state:
        lengths = torch.full((count,), time, device=x.device) if packing is None else packing.lengths
        index = lengths[:, None] + torch.arange(taps - 1, device=x.device)
        after = whole.gather(1, index[..., None].expand(-1, -1, channels))
    return y if packing is None else packing.pack(y), after
