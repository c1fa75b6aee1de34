"""The kernels of `kernels.few_rows`. Legend: as there.

With PDL a kernel begins while the one before it still runs, and asks for its weights at once: HELD blocks of columns lie in
registers when the rows come. Up to its wait it reads weights alone, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.counts import cdiv, power_of_2
from kernels.nha.triton.launch import launch_step


@triton.jit
def _columns(row, k0, K: tl.constexpr, BK: tl.constexpr, SILU: tl.constexpr):
    """BK columns of a row in fp32."""
    k = k0 + tl.arange(0, BK)
    y = tl.load(row + k, mask=k < K, other=0.0).to(tl.float32)
    if SILU:
        y *= tl.sigmoid(y)
    return y


@triton.jit
def _block(w, norm, at, k0, N, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr):
    """BK columns of W[at], and the norm's weights of these; both as they are stored, for registers may have to hold them."""
    n, k = at + tl.arange(0, BN), k0 + tl.arange(0, BK)
    tile = tl.load(w + n[:, None] * K + k[None, :], mask=(n < N)[:, None] & (k < K)[None, :], other=0.0)
    factor = tl.load(norm + k, mask=k < K, other=0.0) if NORM else tl.full([BK], 1.0, tl.float32)
    return tile, factor


@triton.jit
def _held(
    w, norm, at, N, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr, HELD: tl.constexpr
):  # fmt: skip
    """The first HELD blocks."""
    blocks = ()
    for i in tl.static_range(HELD):
        blocks += (_block(w, norm, at, i * BK, N, K, BN, BK, NORM),)
    return blocks


@triton.jit
def _added(
    block, x, k0, sums, squares, R: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, SILU: tl.constexpr
):  # fmt: skip
    """The sums of products, and of squares, with a block's added."""
    tile, factor = block[0].to(tl.float32), block[1].to(tl.float32)
    more, further = (), ()
    for r in tl.static_range(R):
        y = _columns(x + r * K, k0, K, BK, SILU)
        further += (squares[r] + y * y,)
        more += (sums[r] + tile * (y * factor)[None, :],)
    return more, further


@triton.jit
def _products(
    blocks, x, norm, w, at, N, eps, R: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SILU: tl.constexpr,
    NORM: tl.constexpr, HELD: tl.constexpr,
):  # fmt: skip
    """W[at] times each row: a tuple of R blocks [BN]. A row's RMS is summed up along with its products, so that no weight waits
    for it."""
    sums, squares = (), ()
    for _ in tl.static_range(R):
        sums += (tl.zeros([BN, BK], tl.float32),)
        squares += (tl.zeros([BK], tl.float32),)
    for i in tl.static_range(HELD):
        sums, squares = _added(blocks[i], x, i * BK, sums, squares, R, K, BK, SILU)
    for k0 in range(HELD * BK, K, BK):
        sums, squares = _added(_block(w, norm, at, k0, N, K, BN, BK, NORM), x, k0, sums, squares, R, K, BK, SILU)
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
    BK: tl.constexpr, SILU: tl.constexpr, NORM: tl.constexpr, RESIDUAL: tl.constexpr, HELD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A program is BN rows of one of the weights, the first one's coming first. BIASES: a bit for each weight that has one."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    EARLY: tl.constexpr = HELD if PDL else 0
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
    blocks = _held(w, norm, at, rows, K, BN, BK, NORM, EARLY)
    if PDL:
        tl.extra.cuda.gdc_wait()
    # Asked for along with the rows: behind the products a program would wait for it once more.
    stream = ()
    if RESIDUAL:
        for r in tl.static_range(R):
            stream += (tl.load(residual + r * N0 + n, mask=n < rows, other=0.0),)
    products = _products(blocks, x, norm, w, at, rows, eps, R, K, BN, BK, SILU, NORM, EARLY)
    for r in tl.static_range(R):
        y = products[r]
        if BIASES > 0:
            y += tl.load(bias + n, mask=(n < rows) & (biased > 0), other=0.0).to(tl.float32)
        if A0 + A1 + A2 + A3 > 0:
            soft = tl.minimum(y, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(y)))
            y = tl.where(kind == 1, y * tl.sigmoid(y), tl.where(kind == 2, soft / divisor, y))
        if RESIDUAL:
            y += stream[r].to(tl.float32)
        tl.store(out + r * rows + n, y.to(out.dtype.element_ty), mask=n < rows)


@triton.jit(do_not_specialize=["eps"])
def few_rows_kernel_glu(
    x, norm, gate, up, out, eps, R: tl.constexpr, K: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    NORM: tl.constexpr, HELD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A program is BN rows of both weights."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    EARLY: tl.constexpr = HELD if PDL else 0
    at = tl.program_id(0) * BN
    n = at + tl.arange(0, BN)
    gate_blocks = _held(gate, norm, at, N, K, BN, BK, NORM, EARLY)
    up_blocks = _held(up, norm, at, N, K, BN, BK, NORM, EARLY)
    if PDL:
        tl.extra.cuda.gdc_wait()
    gates = _products(gate_blocks, x, norm, gate, at, N, eps, R, K, BN, BK, False, NORM, EARLY)
    ups = _products(up_blocks, x, norm, up, at, N, eps, R, K, BN, BK, False, NORM, EARLY)
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


def _held_blocks(width: int, count: int, BN: int, BK: int, itemsize: int) -> int:
    """How many blocks of a weight a program holds while it waits, for that many rows of x: at least one."""
    # 48 registers of 128 threads; where the sums of three or four rows want them, 16.
    room = 24 * 1024 if count <= 2 else 8 * 1024
    return max(1, min(cdiv(width, BK), room // (BN * BK * itemsize)))


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
    launch_step(
        few_rows_kernel_linear, (sum(cdiv(size, BN) for size in sizes),),
        x, weight, *weights, *[weights[0]] * spare, *[weights[0] if b is None else b for b in biases], *[weights[0]] * spare,
        *outs, *[outs[0]] * spare, residual, float(eps), float(divisor),
        R=R, K=K, **dict(zip(("N0", "N1", "N2", "N3", "A0", "A1", "A2", "A3"), numbers, strict=True)),
        BIASES=sum(1 << i for i, b in enumerate(biases) if b is not None), BN=BN, BK=BK, SILU=silu, NORM=norm is not None,
        RESIDUAL=residual is not None, HELD=_held_blocks(K, R, BN, BK, x.itemsize), num_warps=4,
    )  # fmt: skip


def launch_glu(x: Tensor, gate: Tensor, up: Tensor, norm, out: Tensor) -> None:
    """Writes out, of arguments that `kernels.few_rows.glu` has checked."""
    K, N = x.shape[-1], gate.shape[0]
    R = x.numel() // K
    BN, BK = _tile(K, R, x.is_cuda)
    weight, eps = (None, 0.0) if norm is None else norm
    launch_step(
        few_rows_kernel_glu, (cdiv(N, BN),), x, weight, gate, up, out, float(eps), R=R, K=K, N=N, BN=BN, BK=BK,
        NORM=norm is not None, HELD=_held_blocks(K, R, BN, BK, x.itemsize), num_warps=4,
    )  # fmt: skip
