"""silu(gate) * up as one kernel forward and one backward, which makes the activation anew: nothing but gate and up is kept.

    y = product(gate, up)

Elements go one after the other, whatever the shape. Their number comes in units (`unit_of`), by which the compiler knows that a
run of them is inside or outside as a whole, and reads 16 bytes at once; a thread has eight of a tile, as the gradient has
three tensors in registers.

Legend: N elements, BN of a tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.nha.triton.launch import launch, unit_of

TILE = {"BN": 1024, "num_warps": 4}


@triton.jit
def _place(N, BN: tl.constexpr):
    """(elements [BN] of this program, which of them there are)."""
    place = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    return place, place < N


@triton.jit(do_not_specialize=["units"])
def swiglu_fwd_kernel(gate, up, y, units, UNIT: tl.constexpr, BN: tl.constexpr):
    """y = silu(gate) * up, each N elements."""
    place, keep = _place(units.to(tl.int64) * UNIT, BN)
    z = tl.load(gate + place, mask=keep, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=keep, other=0.0).to(tl.float32)
    tl.store(y + place, (z * tl.sigmoid(z) * u).to(y.dtype.element_ty), mask=keep)


@triton.jit(do_not_specialize=["units"])
def swiglu_bwd_kernel(gate, up, d_y, d_gate, d_up, units, UNIT: tl.constexpr, BN: tl.constexpr):
    """d_gate and d_up of d_y, each N elements."""
    place, keep = _place(units.to(tl.int64) * UNIT, BN)
    z = tl.load(gate + place, mask=keep, other=0.0).to(tl.float32)
    u = tl.load(up + place, mask=keep, other=0.0).to(tl.float32)
    d = tl.load(d_y + place, mask=keep, other=0.0).to(tl.float32)
    s = tl.sigmoid(z)
    tl.store(d_gate + place, (d * u * s * (1 + z * (1 - s))).to(d_gate.dtype.element_ty), mask=keep)
    tl.store(d_up + place, (d * z * s).to(d_up.dtype.element_ty), mask=keep)


def product(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, contiguous, of two tensors of one shape and dtype (fp16, bf16, fp32); arithmetic is in fp32."""
    return _Product.apply(gate, up)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        _launch(swiglu_fwd_kernel, gate, up, y)
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, d_y):
        gate, up = ctx.saved_tensors
        d_gate, d_up = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (gate, up))
        _launch(swiglu_bwd_kernel, gate, up, d_y.contiguous(), d_gate, d_up)
        return d_gate, d_up


def _launch(kernel, gate: Tensor, *rest: Tensor) -> None:
    count = gate.numel()
    if not count:
        return
    unit = unit_of(count)
    launch(kernel, (triton.cdiv(count, TILE["BN"]),), gate, *rest, count // unit, UNIT=unit, **TILE)
