"""The kernels of `kernels.few_rows`. Legend: as there; KP is K as a power of two."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.counts import cdiv, power_of_2
from kernels.nha.triton.launch import launch


@triton.jit
def _columns(row, k0, K: tl.constexpr, BK: tl.constexpr, SILU: tl.constexpr):
    """BK columns of a row in fp32."""
    k = k0 + tl.arange(0, BK)
    y = tl.load(row + k, mask=k < K, other=0.0).to(tl.float32)
    if SILU:
        y *= tl.sigmoid(y)
    return y


@triton.jit
def _products(
    x, norm, w, at, N, eps, R: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SILU: tl.constexpr,
    NORM: tl.constexpr,
):  # fmt: skip
    """W[at] times each row: a tuple of R blocks [BN]. A row's RMS is summed up along with its products, so that no weight waits
    for it."""
    n = at + tl.arange(0, BN)
    sums, squares = (), ()
    for _ in tl.static_range(R):
        sums += (tl.zeros([BN, BK], tl.float32),)
        squares += (tl.zeros([BK], tl.float32),)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        tile = tl.load(w + n[:, None] * K + k[None, :], mask=(n < N)[:, None] & (k < K)[None, :], other=0.0).to(tl.float32)
        factor = tl.load(norm + k, mask=k < K, other=0.0).to(tl.float32) if NORM else tl.full([BK], 1.0, tl.float32)
        more, further = (), ()
        for r in tl.static_range(R):
            y = _columns(x + r * K, k0, K, BK, SILU)
            further += (squares[r] + y * y,)
            more += (sums[r] + tile * (y * factor)[None, :],)
        sums, squares = more, further
    found = ()
    for r in tl.static_range(R):
        product = tl.sum(sums[r], 1)
        found += (product * tl.rsqrt(tl.sum(squares[r], 0) / K + eps) if NORM else product,)
    return found


@triton.jit(do_not_specialize=["eps", "divisor"])
def few_rows_kernel_linear(
    x, norm, w0, w1, w2, w3, b0, b1, b2, b3, o0, o1, o2, o3, residual, eps, divisor,
    R: tl.constexpr, K: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr,
    A0: tl.constexpr, A1: tl.constexpr, A2: tl.constexpr, A3: tl.constexpr, BIASES: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, SILU: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """A program is BN rows of one of the weights, the first one's coming first. BIASES: a bit for each weight that has one."""
    B0: tl.constexpr = (N0 + BN - 1) // BN
    B1: tl.constexpr = (N1 + BN - 1) // BN
    B2: tl.constexpr = (N2 + BN - 1) // BN
    pid = tl.program_id(0)
    w, bias, out, rows, kind, first, biased = w0, b0, o0, N0, A0, 0, BIASES & 1
    if N1 > 0:  # noqa: SIM102
        if pid >= B0:
            w, bias, out, rows, kind, first, biased = w1, b1, o1, N1, A1, B0, (BIASES >> 1) & 1
    if N2 > 0:  # noqa: SIM102
        if pid >= B0 + B1:
            w, bias, out, rows, kind, first, biased = w2, b2, o2, N2, A2, B0 + B1, (BIASES >> 2) & 1
    if N3 > 0:  # noqa: SIM102
        if pid >= B0 + B1 + B2:
            w, bias, out, rows, kind, first, biased = w3, b3, o3, N3, A3, B0 + B1 + B2, (BIASES >> 3) & 1
    at = (pid - first) * BN
    n = at + tl.arange(0, BN)
    products = _products(x, norm, w, at, rows, eps, R, K, BN, BK, SILU, NORM)
    for r in tl.static_range(R):
        y = products[r]
        if BIASES > 0:
            y += tl.load(bias + n, mask=(n < rows) & (biased > 0), other=0.0).to(tl.float32)
        if A0 + A1 + A2 + A3 > 0:
            soft = tl.minimum(y, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(y)))
            y = tl.where(kind == 1, y * tl.sigmoid(y), tl.where(kind == 2, soft / divisor, y))
        if RESIDUAL:
            y += tl.load(residual + r * N0 + n, mask=n < rows, other=0.0).to(tl.float32)
        tl.store(out + r * rows + n, y.to(out.dtype.element_ty), mask=n < rows)


@triton.jit(do_not_specialize=["eps"])
def few_rows_kernel_glu(
    x, norm, gate, up, out, eps, R: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    NORM: tl.constexpr,
):  # fmt: skip
    """A program is BN rows of both weights."""
    at = tl.program_id(0) * BN
    n = at + tl.arange(0, BN)
    gates = _products(x, norm, gate, at, N, eps, R, K, BN, BK, False, NORM)
    ups = _products(x, norm, up, at, N, eps, R, K, BN, BK, False, NORM)
    for r in tl.static_range(R):
        y = gates[r] * tl.sigmoid(gates[r]) * ups[r]
        tl.store(out + r * N + n, y.to(out.dtype.element_ty), mask=n < N)


def _tile(width: int, count: int, on_gpu: bool) -> tuple[int, int]:
    """(BN, BK) for that many rows of x, of that width: on an H100 about the best for 1.3b's products. Few large tiles for the
    interpreter."""
    if not on_gpu:
        return 32, min(power_of_2(width), 64)
    # Columns that leave the least of the last block unused, the most of those that do.
    BK = min((2048, 1024, 512, 256), key=lambda columns: cdiv(width, columns) * columns)
    return 2 if count <= 2 else 4, BK


def launch_linear(
    x: Tensor, weights: Sequence[Tensor], biases: list[Tensor | None], norm, silu: bool, after: list[int], divisor: float,
    residual: Tensor | None, outs: list[Tensor],
) -> None:  # fmt: skip
    """Writes outs, of arguments that `kernels.few_rows.linear` has checked."""
    K = x.shape[-1]
    R, sizes = x.numel() // K, [weight.shape[0] for weight in weights]
    BN, BK = _tile(K, R, x.is_cuda)
    spare = 4 - len(weights)
    weight, eps = (None, 0.0) if norm is None else norm
    numbers = [*sizes, *[0] * spare, *after, *[0] * spare]
    launch(
        few_rows_kernel_linear, (sum(cdiv(size, BN) for size in sizes),),
        x, weight, *weights, *[weights[0]] * spare, *[weights[0] if b is None else b for b in biases], *[weights[0]] * spare,
        *outs, *[outs[0]] * spare, residual, float(eps), float(divisor),
        R=R, K=K, **dict(zip(("N0", "N1", "N2", "N3", "A0", "A1", "A2", "A3"), numbers, strict=True)),
        BIASES=sum(1 << i for i, b in enumerate(biases) if b is not None), BN=BN, BK=BK, SILU=silu, NORM=norm is not None,
        RESIDUAL=residual is not None, num_warps=4,
    )  # fmt: skip


def launch_glu(x: Tensor, gate: Tensor, up: Tensor, norm, out: Tensor) -> None:
    """Writes out, of arguments that `kernels.few_rows.glu` has checked."""
    K, N = x.shape[-1], gate.shape[0]
    R = x.numel() // K
    BN, BK = _tile(K, R, x.is_cuda)
    weight, eps = (None, 0.0) if norm is None else norm
    launch(
        few_rows_kernel_glu, (cdiv(N, BN),), x, weight, gate, up, out, float(eps), R=R, K=K, N=N, BN=BN, BK=BK,
        NORM=norm is not None, num_warps=4,
    )  # fmt: skip
