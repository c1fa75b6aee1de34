"""The short convolution of whole sequences as one kernel, SiLU and its gradients within, where torch takes a dozen.

    y = convolution(x, weight, bias, silu=True)

A token's output is made of the W inputs up to it, so that a tile reads W shifted tiles, all but the first out of the cache. The
gradient of an input comes of the W outputs behind it, which are made anew: nothing but x is kept. Channels and strides come in
units (`unit_of`), by which the compiler knows that 16 bytes can be read at once; a thread has eight elements of a tile,
as the W x W tiles of a gradient want registers.

Legend: B batch, T time, D channels, W taps, BT tokens and BD channels of a tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.nha.triton.launch import launch, unit_of

TILE = {"BT": 16, "BD": 64, "num_warps": 4}
_NUMBERS = ["row_stride", "token_stride", "T", "D"]


@triton.jit
def _inputs(x, row, row_stride, token_stride, at, d, T, D):
    """Tokens `at` [BT] of a sequence, channels d [BD], in fp32; zeros outside it."""
    keep = (at >= 0)[:, None] & (at < T)[:, None] & (d < D)[None, :]
    place = row * row_stride + at.to(tl.int64)[:, None] * token_stride + d[None, :]
    return tl.load(x + place, mask=keep, other=0.0).to(tl.float32)


@triton.jit
def _tap(weight, i, d, D, W: tl.constexpr):
    return tl.load(weight + d * W + i, mask=d < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _before_silu(
    x, weight, bias, row, row_stride, token_stride, t, d, T, D, W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr
):
    found = tl.zeros([BT, BD], tl.float32)
    if bias is not None:
        found += tl.load(bias + d, mask=d < D, other=0.0).to(tl.float32)[None, :]
    for i in tl.static_range(W):
        found += _inputs(x, row, row_stride, token_stride, t + (i - W + 1), d, T, D) * _tap(weight, i, d, D, W)
    return found


@triton.jit
def _place(T, BT: tl.constexpr, BD: tl.constexpr):
    """(row, tokens [BT], channels [BD]) of this program."""
    tiles = tl.cdiv(T, BT)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    return row, tl.program_id(0) % tiles * BT + tl.arange(0, BT), tl.program_id(1) * BD + tl.arange(0, BD)


@triton.jit(do_not_specialize=_NUMBERS)
def short_conv_fwd_kernel(
    x, weight, bias, y, row_stride, token_stride, T, D,
    W: tl.constexpr, SILU: tl.constexpr, UNIT: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """y [B, T, D], contiguous, of x [B, T, D], channels side by side; weight [D, W], bias [D] or None. Numbers are in units."""
    row_stride, token_stride, D = row_stride.to(tl.int64) * UNIT, token_stride.to(tl.int64) * UNIT, D * UNIT
    row, t, d = _place(T, BT, BD)
    z = _before_silu(x, weight, bias, row, row_stride, token_stride, t, d, T, D, W, BT, BD)
    if SILU:
        z = z * tl.sigmoid(z)
    keep = (t < T)[:, None] & (d < D)[None, :]
    tl.store(y + (row * T + t)[:, None] * D + d[None, :], z.to(y.dtype.element_ty), mask=keep)


@triton.jit(do_not_specialize=_NUMBERS)
def short_conv_bwd_kernel(
    x, weight, bias, d_y, d_x, sums, row_stride, token_stride, T, D,
    W: tl.constexpr, SILU: tl.constexpr, UNIT: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """d_x [B, T, D] as d_y, both contiguous; sums [programs of the first dimension, W + 1, D] fp32: what this tile adds to the
    gradient of each tap, and of the bias. Numbers are in units."""
    row_stride, token_stride, D = row_stride.to(tl.int64) * UNIT, token_stride.to(tl.int64) * UNIT, D * UNIT
    row, t, d = _place(T, BT, BD)
    found, own = tl.zeros([BT, BD], tl.float32), tl.zeros([BT, BD], tl.float32)
    for j in tl.static_range(W):
        given = _inputs(d_y, row, T.to(tl.int64) * D, D, t + j, d, T, D)
        if SILU:
            z = _before_silu(x, weight, bias, row, row_stride, token_stride, t + j, d, T, D, W, BT, BD)
            s = tl.sigmoid(z)
            given = given * s * (1 + z * (1 - s))
        found += given * _tap(weight, W - 1 - j, d, D, W)
        if j == 0:
            own = given
    keep = (t < T)[:, None] & (d < D)[None, :]
    tl.store(d_x + (row * T + t)[:, None] * D + d[None, :], found.to(d_x.dtype.element_ty), mask=keep)
    place = sums + tl.program_id(0).to(tl.int64) * (W + 1) * D + d
    for i in tl.static_range(W):
        read = _inputs(x, row, row_stride, token_stride, t + (i - W + 1), d, T, D)
        tl.store(place + i * D, tl.sum(own * read, 0), mask=d < D)
    tl.store(place + W * D, tl.sum(own, 0), mask=d < D)


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """y [B, T, D] in x's dtype of x [B, T, D] with weight [D, W] and bias [D] or None; arithmetic is in fp32."""
    return _Convolution.apply(x, weight, bias, silu)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, silu):
        x = x if x.stride(-1) == 1 else x.contiguous()
        weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if y.numel():
            _launch(short_conv_fwd_kernel, x, (weight, bias, y), silu)
        ctx.save_for_backward(x, weight, bias)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):
        x, weight, bias = ctx.saved_tensors
        d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        sums = torch.zeros(1, weight.shape[1] + 1, x.shape[-1], device=x.device)
        if d_x.numel():
            sums = torch.empty(_programs(x), *sums.shape[1:], device=x.device)
            _launch(short_conv_bwd_kernel, x, (weight, bias, d_y.contiguous(), d_x, sums), ctx.silu)
        total = sums.sum(0)
        d_bias = None if bias is None else total[-1].to(bias.dtype)
        return d_x, total[:-1].t().to(weight.dtype), d_bias, None


def _programs(x: Tensor) -> int:
    return x.shape[0] * triton.cdiv(x.shape[1], TILE["BT"])


def _launch(kernel, x: Tensor, rest: tuple, silu: bool) -> None:
    _, time, channels = x.shape
    numbers = x.stride(0), x.stride(1), channels
    unit = unit_of(*numbers)
    row_stride, token_stride, units = (number // unit for number in numbers)
    grid = (_programs(x), triton.cdiv(channels, TILE["BD"]))
    launch(
        kernel, grid, x, *rest, row_stride, token_stride, time, units,
        W=rest[0].shape[1], SILU=silu, UNIT=unit, **TILE,
    )  # fmt: skip
