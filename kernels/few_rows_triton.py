"""The kernels of `kernels.few_rows`. Legend: as there, and PACK elements of a row in a word of 32 bits.

A program takes blocks of BN rows in turn, and has asked for AHEAD of them at any time: as soon as one is multiplied, and before
it is summed up between threads, the next is asked for, so that memory has work while threads wait for each other. What is on
its way lies in registers as words: elements of half precision would be taken apart where they are loaded, and so waited for.

With PDL a kernel begins while the one before it still runs, and asks for its first blocks at once. Up to its wait it reads
weights alone, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.counts import cdiv, power_of_2
from kernels.nha.triton.launch import launch_step


@triton.jit
def _words(pointer, PACK: tl.constexpr):
    """A pointer to words."""
    return pointer if PACK < 2 else pointer.to(tl.pointer_type(tl.int32), bitcast=True)


@triton.jit
def _elements(words, kind: tl.constexpr, PACK: tl.constexpr):
    """The elements of words in fp32: a block for each place in a word."""
    if PACK == 1:
        parts = (words.to(tl.float32),)
    elif kind == tl.bfloat16:
        parts = ((words << 16).to(tl.float32, bitcast=True), (words & -65536).to(tl.float32, bitcast=True))
    else:
        low, high = words.to(tl.int16), (words >> 16).to(tl.int16)
        parts = (low.to(kind, bitcast=True).to(tl.float32), high.to(kind, bitcast=True).to(tl.float32))
    return parts


@triton.jit
def _vector(row, K: tl.constexpr, BK: tl.constexpr, PACK: tl.constexpr):
    """A row's words, BK elements a piece."""
    pieces = ()
    for k0 in tl.static_range(0, K, BK):
        at = k0 // PACK + tl.arange(0, BK // PACK)
        pieces += (tl.load(_words(row, PACK) + at, mask=at < K // PACK, other=0),)
    return pieces


@triton.jit
def _tile(w, at, count, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PACK: tl.constexpr):
    """The words of BN rows of W [count, K] from `at` on, BK elements a piece; those of rows that it has not are left open."""
    n = at + tl.arange(0, BN)
    row, ok = _words(w, PACK) + (n * (K // PACK))[:, None], (n < count)[:, None]
    pieces = ()
    for k0 in tl.static_range(0, K, BK):
        at_word = k0 // PACK + tl.arange(0, BK // PACK)[None, :]
        if k0 + BK <= K:
            pieces += (tl.load(row + at_word, mask=ok),)
        else:
            # What is multiplied by the zeros of x must be finite.
            pieces += (tl.load(row + at_word, mask=ok & (at_word < K // PACK), other=0),)
    return pieces


@triton.jit
def _given(words, KIND: tl.constexpr, SILU: tl.constexpr, PACK: tl.constexpr):
    """A piece of a row of x as it comes to the norm: a block for each place in a word."""
    parts = _elements(words, KIND, PACK)
    if SILU:
        found = ()
        for j in tl.static_range(PACK):
            found += (parts[j] * tl.sigmoid(parts[j]),)
        parts = found
    return parts


@triton.jit
def _summed(parts, R: tl.constexpr, BEFORE: tl.constexpr):
    """The sums along the last axis of R blocks, which is their first or has BEFORE: [.., R as a power of two]. All at once, for
    threads wait for each other each time."""
    RP: tl.constexpr = 4 if R == 3 else R
    AXIS: tl.constexpr = 1 if BEFORE > 0 else 0
    shape: tl.constexpr = [BEFORE, RP] if BEFORE > 0 else [RP]
    if R == 1:
        y = tl.sum(parts[0], AXIS, keep_dims=True)
    elif R == 2:
        y = tl.sum(tl.join(parts[0], parts[1]), AXIS)
    else:
        y = tl.sum(tl.join(tl.join(parts[0], parts[2]), tl.join(parts[1], parts[R - 1])), AXIS)
    return tl.reshape(y, shape)


@triton.jit
def _squares(pieces, KIND: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, SILU: tl.constexpr, PACK: tl.constexpr):
    """A row's squares, left to be summed up."""
    squares = tl.zeros([BK // PACK], tl.float32)
    for c in tl.static_range((K + BK - 1) // BK):
        parts = _given(pieces[c], KIND, SILU, PACK)
        for j in tl.static_range(PACK):
            squares += parts[j] * parts[j]
    return squares


@triton.jit
def _factors(words, factors, KIND: tl.constexpr, SILU: tl.constexpr, NORM: tl.constexpr, PACK: tl.constexpr):
    """What a piece's products are with, but for the row's RMS."""
    parts = _given(words, KIND, SILU, PACK)
    if NORM:
        weights, found = _elements(factors, KIND, PACK), ()
        for j in tl.static_range(PACK):
            found += (parts[j] * weights[j],)
        parts = found
    return parts


@triton.jit
def _rows(
    x, factors, eps, R: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, SILU: tl.constexpr, NORM: tl.constexpr,
    KEEP: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """Rows of x as products take them, if they are kept (row r's piece c at r * pieces + c), and what each is multiplied by."""
    KIND: tl.constexpr = x.dtype.element_ty
    PIECES: tl.constexpr = (K + BK - 1) // BK
    words, kept, squares = (), (), ()
    if KEEP or NORM:
        for r in tl.static_range(R):
            words += (_vector(x + r * K, K, BK, PACK),)
    for r in tl.static_range(R):
        if KEEP:
            for c in tl.static_range(PIECES):
                kept += (_factors(words[r][c], factors[c] if NORM else 0, KIND, SILU, NORM, PACK),)
        if NORM:
            squares += (_squares(words[r], KIND, K, BK, SILU, PACK),)
    scales = tl.rsqrt(_summed(squares, R, 0) / K + eps) if NORM else 1.0
    return kept, scales


@triton.jit
def _sums(
    tile, kept, x, norm, R: tl.constexpr, K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SILU: tl.constexpr,
    NORM: tl.constexpr, KEEP: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """A tile times each row, left to be summed up: a tuple of R blocks [BN, words of a piece]."""
    KIND: tl.constexpr = x.dtype.element_ty
    PIECES: tl.constexpr = (K + BK - 1) // BK
    sums = ()
    for _ in tl.static_range(R):
        sums += (tl.zeros([BN, BK // PACK], tl.float32),)
    for c in tl.static_range(PIECES):
        parts, more = _elements(tile[c], KIND, PACK), ()
        at = c * BK // PACK + tl.arange(0, BK // PACK)
        for r in tl.static_range(R):
            if KEEP:
                y = kept[r * PIECES + c]
            else:
                words = tl.load(_words(x + r * K, PACK) + at, mask=at < K // PACK, other=0)
                factors = tl.load(_words(norm, PACK) + at, mask=at < K // PACK, other=0) if NORM else 0
                y = _factors(words, factors, KIND, SILU, NORM, PACK)
            total = sums[r]
            for j in tl.static_range(PACK):
                total += parts[j] * y[j][None, :]
            more += (total,)
        sums = more
    return sums


@triton.jit
def _chosen(which, a0, a1, a2, a3, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr):
    """What belongs to that weight, of those that there are."""
    a = a0
    if N1 > 0:  # noqa: SIM102
        if which == 1:
            a = a1
    if N2 > 0:  # noqa: SIM102
        if which == 2:
            a = a2
    if N3 > 0:  # noqa: SIM102
        if which == 3:
            a = a3
    return a


@triton.jit
def _place(block, N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, BN: tl.constexpr):
    """A block's weight by number, that one's rows, and the block's first: past the last, if there is no such block."""
    B0: tl.constexpr = (N0 + BN - 1) // BN
    B1: tl.constexpr = B0 + (N1 + BN - 1) // BN
    B2: tl.constexpr = B1 + (N2 + BN - 1) // BN
    which, count, first = 0, N0, 0
    if N1 > 0:  # noqa: SIM102
        if block >= B0:
            which, count, first = 1, N1, B0
    if N2 > 0:  # noqa: SIM102
        if block >= B1:
            which, count, first = 2, N2, B1
    if N3 > 0:  # noqa: SIM102
        if block >= B2:
            which, count, first = 3, N3, B2
    return which, count, (block - first) * BN


@triton.jit
def _after(y, kind, divisor):
    """An activation by number. Branches: a block has one, and each takes more instructions than a row's product."""
    if kind == 1:
        y = y * tl.sigmoid(y)
    if kind == 2:
        y = (tl.minimum(y, 0.0) - tl.log(1.0 + tl.exp(-tl.abs(y)))) / divisor
    return y


@triton.jit
def _places(at, count, R: tl.constexpr, BN: tl.constexpr):
    """Where BN rows' products lie in outputs [R, count], as `_summed` has them, and which of them there are."""
    n, r = at + tl.arange(0, BN)[:, None], tl.arange(0, 4 if R == 3 else R)[None, :]
    return r * count + n, (n < count) & (r < R)


@triton.jit
def _stream(residual, at, R: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, RESIDUAL: tl.constexpr):
    """What is added to BN rows' products: asked for along with the rows, or a program would wait for it once more."""
    places, ok = _places(at, N, R, BN)
    return tl.load(residual + places, mask=ok, other=0.0) if RESIDUAL else 0.0


@triton.jit(do_not_specialize=["eps", "divisor"])
def few_rows_kernel_linear(
    x, norm, w0, w1, w2, w3, b0, b1, b2, b3, o0, o1, o2, o3, residual, eps, divisor,
    R: tl.constexpr, K: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr,
    A0: tl.constexpr, A1: tl.constexpr, A2: tl.constexpr, A3: tl.constexpr, BIASES: tl.constexpr, SILU: tl.constexpr,
    NORM: tl.constexpr, RESIDUAL: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, AHEAD: tl.constexpr, KEEP: tl.constexpr,
    PACK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Blocks are of one weight each, the first one's coming first. BIASES: a bit for each weight that has one."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    BLOCKS: tl.constexpr = (N0 + BN - 1) // BN + (N1 + BN - 1) // BN + (N2 + BN - 1) // BN + (N3 + BN - 1) // BN
    begin, step = tl.program_id(0), tl.num_programs(0)
    tiles, streams, factors = (), (), ()
    for i in tl.static_range(AHEAD):
        which, count, at = _place(begin + i * step, N0, N1, N2, N3, BN)
        tiles += (_tile(_chosen(which, w0, w1, w2, w3, N1, N2, N3), at, count, K, BN, BK, PACK),)
    if NORM and KEEP:
        factors = _vector(norm, K, BK, PACK)
    if PDL:
        tl.extra.cuda.gdc_wait()
    for i in tl.static_range(AHEAD):
        streams += (_stream(residual, (begin + i * step) * BN, R, N0, BN, RESIDUAL),)
    kept, scales = _rows(x, factors, eps, R, K, BK, SILU, NORM, KEEP, PACK)
    for start in range(begin, BLOCKS, AHEAD * step):
        for i in tl.static_range(AHEAD):
            tile, stream, block = tiles[0], streams[0], start + i * step
            if block < BLOCKS:
                sums = _sums(tile, kept, x, norm, R, K, BN, BK, SILU, NORM, KEEP, PACK)
                added = stream
                which, count, at = _place(block + AHEAD * step, N0, N1, N2, N3, BN)
                tile = _tile(_chosen(which, w0, w1, w2, w3, N1, N2, N3), at, count, K, BN, BK, PACK)
                stream = _stream(residual, at, R, N0, BN, RESIDUAL)
                which, count, at = _place(block, N0, N1, N2, N3, BN)
                places, ok = _places(at, count, R, BN)
                out = _chosen(which, o0, o1, o2, o3, N1, N2, N3)
                kind = _chosen(which, A0, A1, A2, A3, N1, N2, N3)
                if BIASES > 0:
                    n = at + tl.arange(0, BN)
                    biased = (n < count) & ((BIASES >> which) & 1 > 0)
                    bias = tl.load(_chosen(which, b0, b1, b2, b3, N1, N2, N3) + n, mask=biased, other=0.0)
                y = _summed(sums, R, BN)
                if NORM:
                    y *= scales[None, :]
                if BIASES > 0:
                    y += bias.to(tl.float32)[:, None]
                if A0 + A1 + A2 + A3 > 0:
                    y = _after(y, kind, divisor)
                if RESIDUAL:
                    y += added.to(tl.float32)
                tl.store(out + places, y.to(out.dtype.element_ty), mask=ok)
            # After AHEAD turns each block is asked for where the one before it lay: no register is moved, nor waited for.
            tiles, streams = tiles[1:], streams[1:]
            tiles += (tile,)
            streams += (stream,)


@triton.jit(do_not_specialize=["eps"])
def few_rows_kernel_glu(
    x, norm, gate, up, out, eps, R: tl.constexpr, K: tl.constexpr, N: tl.constexpr, NORM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr, AHEAD: tl.constexpr, KEEP: tl.constexpr, PACK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """A block is BN rows of both weights."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    BLOCKS: tl.constexpr = (N + BN - 1) // BN
    begin, step = tl.program_id(0), tl.num_programs(0)
    gates, ups, factors = (), (), ()
    for i in tl.static_range(AHEAD):
        gates += (_tile(gate, (begin + i * step) * BN, N, K, BN, BK, PACK),)
        ups += (_tile(up, (begin + i * step) * BN, N, K, BN, BK, PACK),)
    if NORM and KEEP:
        factors = _vector(norm, K, BK, PACK)
    if PDL:
        tl.extra.cuda.gdc_wait()
    kept, scales = _rows(x, factors, eps, R, K, BK, False, NORM, KEEP, PACK)
    for start in range(begin, BLOCKS, AHEAD * step):
        for i in tl.static_range(AHEAD):
            of_gate, of_up, block = gates[0], ups[0], start + i * step
            if block < BLOCKS:
                sums = _sums(of_gate, kept, x, norm, R, K, BN, BK, False, NORM, KEEP, PACK)
                more = _sums(of_up, kept, x, norm, R, K, BN, BK, False, NORM, KEEP, PACK)
                of_gate = _tile(gate, (block + AHEAD * step) * BN, N, K, BN, BK, PACK)
                of_up = _tile(up, (block + AHEAD * step) * BN, N, K, BN, BK, PACK)
                y, factor = _summed(sums, R, BN), _summed(more, R, BN)
                if NORM:
                    y *= scales[None, :]
                    factor *= scales[None, :]
                places, ok = _places(block * BN, N, R, BN)
                tl.store(out + places, (y * tl.sigmoid(y) * factor).to(out.dtype.element_ty), mask=ok)
            gates, ups = gates[1:], ups[1:]
            gates += (of_gate,)
            ups += (of_up,)


WARPS = 4
# Bytes that the warps of a program load at once.
WIDEST = WARPS * 32 * 16


@dataclass(frozen=True)
class Tile:
    """BN rows of each weight in a block, BK columns in a piece, AHEAD blocks on their way to a program's registers, KEEP:
    whether rows of x stay in registers, programs: a multiprocessor, to which blocks are dealt out (None: a program each)."""

    BN: int
    BK: int
    AHEAD: int
    KEEP: bool
    programs: int | None


@lru_cache
def choose_tile(width: int, rows: int, weights: int, itemsize: int, on_gpu: bool) -> Tile:
    """The numbers for that many rows of x, of that width, and blocks of so many weights: within a tenth of the fastest of 15 to
    40 tiles for each product of the 1.3b models on an H200. Few programs of large blocks for the interpreter."""
    if not on_gpu:
        return Tile(BN=16, BK=min(power_of_2(width), 256), AHEAD=2, KEEP=rows < 3, programs=2)
    # 16 bytes of a row a thread, or half or a quarter of that: the most of which an eighth at most is unused, else the least.
    sizes = [WIDEST // itemsize // part for part in (1, 2, 4)]
    padded = {BK: cdiv(width, BK) * BK for BK in sizes}
    BK = next((BK for BK in sizes if 8 * padded[BK] <= 9 * width), sizes[-1])
    # In fp32, and each thread has as many columns of x as of a row of a weight.
    kept = rows * padded[BK] // (32 * WARPS * BK * itemsize // WIDEST)
    of_row = padded[BK] * itemsize * weights
    if kept > 64:
        return Tile(BN=2 if 2 * of_row <= 24 * 1024 else 1, BK=BK, AHEAD=1, KEEP=False, programs=None)
    # 32 registers of 128 threads for a block; where several rows and their sums want them, 16.
    fit = (16 if rows == 1 else 8) * 1024 // of_row
    BN = 4 if fit >= 4 else 2 if fit >= 2 else 1
    return Tile(BN=BN, BK=BK, AHEAD=2, KEEP=True, programs=4 if rows == 1 else 3)


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many a GPU has; one for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _programs(tile: Tile, blocks: int, device: torch.device) -> int:
    # A program with fewer than AHEAD blocks asks for less at once than it could.
    most = cdiv(blocks, tile.AHEAD)
    return most if tile.programs is None else min(most, tile.programs * multiprocessors(device))


def _constants(tile: Tile, x: Tensor, *others: Tensor) -> dict:
    """The kernels' compile-time numbers. Two elements are a word in half precision, if every row begins with a whole word."""
    begins = x.shape[-1] * x.itemsize
    for each in (x, *others):
        begins |= each.data_ptr()
    return {
        "BN": tile.BN, "BK": tile.BK, "AHEAD": tile.AHEAD, "KEEP": tile.KEEP,
        "PACK": 2 if x.itemsize == 2 and begins % 4 == 0 else 1, "num_warps": WARPS,
    }  # fmt: skip


def launch_linear(
    x: Tensor, weights: Sequence[Tensor], biases: list[Tensor | None], norm, silu: bool, after: list[int], divisor: float,
    residual: Tensor | None, outs: list[Tensor],
) -> None:  # fmt: skip
    """Writes outs, of arguments that `kernels.few_rows.linear` has checked."""
    K = x.shape[-1]
    R, sizes = x.numel() // K, [weight.shape[0] for weight in weights]
    tile = choose_tile(K, R, 1, x.itemsize, x.is_cuda)
    blocks = sum(cdiv(size, tile.BN) for size in sizes)
    spare = 4 - len(weights)
    weight, eps = (None, 0.0) if norm is None else norm
    numbers = [*sizes, *[0] * spare, *after, *[0] * spare]
    launch_step(
        few_rows_kernel_linear, (_programs(tile, blocks, x.device),),
        x, weight, *weights, *[weights[0]] * spare, *[weights[0] if b is None else b for b in biases], *[weights[0]] * spare,
        *outs, *[outs[0]] * spare, residual, float(eps), float(divisor),
        R=R, K=K, **dict(zip(("N0", "N1", "N2", "N3", "A0", "A1", "A2", "A3"), numbers, strict=True)),
        BIASES=sum(1 << i for i, b in enumerate(biases) if b is not None), SILU=silu, NORM=norm is not None,
        RESIDUAL=residual is not None, **_constants(tile, x, *weights, *[] if norm is None else [weight]),
    )  # fmt: skip


def launch_glu(x: Tensor, gate: Tensor, up: Tensor, norm, out: Tensor) -> None:
    """Writes out, of arguments that `kernels.few_rows.glu` has checked."""
    K, N = x.shape[-1], gate.shape[0]
    R = x.numel() // K
    tile = choose_tile(K, R, 2, x.itemsize, x.is_cuda)
    weight, eps = (None, 0.0) if norm is None else norm
    launch_step(
        few_rows_kernel_glu, (_programs(tile, cdiv(N, tile.BN), x.device),),
        x, weight, gate, up, out, float(eps), R=R, K=K, N=N, NORM=norm is not None,
        **_constants(tile, x, gate, up, *[] if norm is None else [weight]),
    )  # fmt: skip
