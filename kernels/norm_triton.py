"""RMSNorm as one kernel forward and one backward, with SiLU before it in both: x and a number a row are all that is kept.

    y = norm(x, weight, eps, silu=True, dtype=torch.bfloat16)

The gradient of weight is summed over the rows of a program, then over programs, always in the same order.

Legend: N rows, D columns, R rows and BD columns (a power of 2, D at the least) of a tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.nha.triton.launch import launch

TILE = 2048  # elements, sixteen a thread: a gradient has four tiles in registers
PROGRAMS = 512  # of a gradient at most, each of which leaves a row of sums


@triton.jit
def _place(rows, col, N, D: tl.constexpr):
    """(places [R, BD], which there are)."""
    return rows.to(tl.int64)[:, None] * D + col[None, :], (rows < N)[:, None] & (col < D)[None, :]


@triton.jit(do_not_specialize=["N"])
def norm_fwd_kernel(
    x, weight, y, scales, N, eps, D: tl.constexpr, SILU: tl.constexpr, R: tl.constexpr, BD: tl.constexpr
):  # fmt: skip
    """y [N, D] of x [N, D], both contiguous, weight [D]; scales [N] fp32: what each row is multiplied by."""
    rows, col = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, BD)
    place, keep = _place(rows, col, N, D)
    a = tl.load(x + place, mask=keep, other=0.0).to(tl.float32)
    if SILU:
        a = a * tl.sigmoid(a)
    w = tl.load(weight + col, mask=col < D, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(a * a, 1) / D + eps)
    tl.store(scales + rows, scale, mask=rows < N)
    tl.store(y + place, (a * scale[:, None] * w[None, :]).to(y.dtype.element_ty), mask=keep)


@triton.jit(do_not_specialize=["N", "tiles"])
def norm_bwd_kernel(
    x, weight, scales, d_y, d_x, sums, N, tiles, D: tl.constexpr, SILU: tl.constexpr, R: tl.constexpr, BD: tl.constexpr
):  # fmt: skip
    """d_x [N, D] of d_y [N, D], contiguous; sums [programs, D] fp32: what this program's `tiles` add to weight's gradient."""
    col = tl.arange(0, BD)
    w = tl.load(weight + col, mask=col < D, other=0.0).to(tl.float32)
    added = tl.zeros([R, BD], tl.float32)
    for tile in range(tiles):
        rows = (tl.program_id(0) * tiles + tile) * R + tl.arange(0, R)
        place, keep = _place(rows, col, N, D)
        a = tl.load(x + place, mask=keep, other=0.0).to(tl.float32)
        s = 1.0
        if SILU:
            p = tl.sigmoid(a)
            s = p * (1 + a * (1 - p))
            a = a * p
        d = tl.load(d_y + place, mask=keep, other=0.0).to(tl.float32)
        scale = tl.load(scales + rows, mask=rows < N, other=0.0)[:, None]
        unit = a * scale
        added += d * unit
        d = d * w[None, :]
        d = scale * (d - unit * (tl.sum(d * unit, 1) / D)[:, None])
        tl.store(d_x + place, (d * s).to(d_x.dtype.element_ty), mask=keep)
    tl.store(sums + tl.program_id(0).to(tl.int64) * D + col, tl.sum(added, 0), mask=col < D)


def norm(x: Tensor, weight: Tensor, eps: float, silu: bool, dtype: torch.dtype) -> Tensor:
    """As `kernels.norm.rms_norm`: x [..., D], weight [D] in fp16, bf16 or fp32 each; contiguous; arithmetic is in fp32."""
    return _Norm.apply(x, weight, eps, silu, dtype)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, silu, dtype):
        x, weight = x.contiguous(), weight.contiguous()
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        scales = torch.empty(x.shape[:-1], device=x.device)
        if y.numel():
            launch(norm_fwd_kernel, (_tiles(x),), x, weight, y, scales, scales.numel(), eps, SILU=silu, **_tile(x))
        ctx.save_for_backward(x, weight, scales)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):
        x, weight, scales = ctx.saved_tensors
        d_x, sums = torch.empty_like(x), torch.zeros(1, x.shape[-1], device=x.device)
        if d_x.numel():
            each = triton.cdiv(_tiles(x), PROGRAMS)
            programs = triton.cdiv(_tiles(x), each)
            sums = torch.empty(programs, x.shape[-1], device=x.device)
            rest = scales, d_y.contiguous(), d_x, sums, scales.numel(), each
            launch(norm_bwd_kernel, (programs,), x, weight, *rest, SILU=ctx.silu, **_tile(x))
        return d_x, sums.sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None, None, None, None


def _tile(x: Tensor) -> dict[str, int]:
    width = triton.next_power_of_2(x.shape[-1])
    warps = min(max(width // 512, 4), 16)
    return {"D": x.shape[-1], "R": max(1, TILE // width), "BD": width, "num_warps": warps}


def _tiles(x: Tensor) -> int:
    return triton.cdiv(x.numel() // x.shape[-1], _tile(x)["R"])
