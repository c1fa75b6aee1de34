"""How a call is cut up: tile sizes by shape, and the tables that tell each program which tokens are its own.

Legend: C tokens of a chunk, GB query heads a program takes, so that C * GB rows fill a tensor-core tile; N sequences.

Sequences start their own chunks. Tables are made on the device, int32, one row a program:
chunks [n, first step, first row in the pack, length];
segments (runs of chunks) [n, first step, row, length, first chunk, count];
sequences [first chunk, chunks, first segment, segments];
keys as chunks, but KB tokens long, and from `ring` tokens before each sequence's start.

The tile sizes were chosen on an H200 by sweeps at T = 32768; 128 rows of 32 tokens and 4 heads beat 64 rows and 16 tokens
forward and backward together, since each chunk's state is written and read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.counts import power_of_2
from kernels.nha.triton.launch import ALL_REGISTERS, launch


@dataclass(frozen=True)
class Tiles:
    """Tile sizes of a shape. The same chunk serves forward and backward, whose states are stored at its starts."""

    C: int
    GB: int
    MB: int
    BK: int
    back_BK: int
    KB: int
    CQ: int
    KP: int
    VP: int
    warps: int
    walk_warps: int
    stages: int
    back_stages: int
    window_stages: int
    wide: bool
    registers: int | None
    most_registers: int | None


@lru_cache
def choose_tiles(group: int, slots: int, key_dim: int, value_dim: int, dtype: torch.dtype, turns: bool, wide: bool) -> Tiles:
    """Tiles for G, M, K and V, with or without rotary turns, for wide windows or narrow ones: 128 rows where registers allow
    it, 64 where they do not."""
    pad = lambda n: power_of_2(max(16, n))  # noqa: E731
    half_padded = lambda n: 2 * max(8, power_of_2(-(-n // 2)))  # noqa: E731
    KP, VP = half_padded(key_dim), half_padded(value_dim)
    heads, widest = power_of_2(group), max(KP, VP)
    # Where values are narrower than keys and those are turned, or slots have their own, Triton 3.6 writes dq elsewhere after
    # the loops for wide windows; those for narrow ones are right at any width.
    wide = wide and KP == VP
    # Tiles of bf16 and 128 columns do with what ptxas chooses, and with a limit would spill a little more.
    most_registers = None if dtype == torch.bfloat16 and widest <= 128 else ALL_REGISTERS
    stages, registers = 1, most_registers
    if dtype == torch.float32:
        GB, C, BK = min(heads, 2 if widest <= 128 else 1), 16, 16
    elif dtype == torch.float16:
        # Its split decays are fp32 operands, twice the shared memory of bf16's; a loop over blocks of slots keeps more of them.
        rows = (64 if widest <= 128 else 32) // (1 if slots <= 64 else 2)
        GB, BK = min(heads, rows // 16) if widest <= 128 else 1, 32
        C = rows // GB
    elif widest > 128:
        GB, C, BK = 1, 32, 32
    else:
        # Turning a tile takes three more, so that fewer keys fit, and one stage of them.
        GB, BK = min(heads, 4), 32 if turns else 64
        C = 64 if GB == 1 else 32
        if C * GB == 128 and not turns:
            stages = 3
        elif GB == 1 and widest <= 64 and not turns:
            # Three programs a multiprocessor rather than two are worth a few spills.
            stages, registers = 2, 168
    # Narrower blocks of slots made Triton 3.6 read out of bounds in products of bf16.
    MB = 64 if dtype != torch.float32 else min(pad(slots), 32)
    # Eight warps on tiles of 16 tokens made Triton 3.6 read out of bounds; such tiles take four.
    warps = 8 if C >= 32 and (C * GB >= 128 or widest > 128) else 4
    back_stages, window_stages = (1, 1) if turns else (2 if wide else 1, 2)
    # Narrow windows want few keys that nothing reaches, wide ones large products.
    back_BK, KB, CQ = min(BK, C), C, C
    if wide and dtype == torch.bfloat16 and widest <= 128 and warps == 8:
        back_BK, KB, CQ = BK, 128, 64 // GB
    return Tiles(
        C,
        GB,
        MB,
        BK,
        back_BK,
        KB,
        CQ,
        KP,
        VP,
        warps,
        8 if widest > 128 else 4,
        stages,
        back_stages,
        window_stages,
        wide,
        registers,
        most_registers,
    )


@dataclass(frozen=True)
class Plan:
    """Tables for the kernels, on the device; segments in the order in which programs take them, each with its number. Those of
    packed sequences are as long as they could have to be; rows to spare are zeros, which the kernels take for sequences of no
    length. most_*: of a sequence, at most."""

    chunks: Tensor
    segments: Tensor
    sequences: Tensor
    keys: Tensor
    most_chunks: int
    most_segments: int


@triton.jit(do_not_specialize=["N", "C", "KB", "ring", "per_segment"])
def nha_kernel_plan(
    cu_seqlens, chunks, segments, sequences, keys, N, C, KB, ring, per_segment, NP: tl.constexpr, BLOCK: tl.constexpr
):
    """Writes the rows of sequence program_id(0); NP: N padded to a power of two."""
    n, i, b = tl.program_id(0), tl.arange(0, NP), tl.arange(0, BLOCK)
    starts = tl.load(cu_seqlens + i, mask=i < N, other=0).to(tl.int32)
    lengths = tl.load(cu_seqlens + i + 1, mask=i < N, other=0).to(tl.int32) - starts
    counts = (lengths + C - 1) // C
    pieces = (counts + per_segment - 1) // per_segment
    blocks = tl.where(i < N, (lengths + ring + KB - 1) // KB, 0)
    first_chunk = tl.sum(tl.where(i < n, counts, 0), 0)
    first_segment = tl.sum(tl.where(i < n, pieces, 0), 0)
    first_block = tl.sum(tl.where(i < n, blocks, 0), 0)
    row, length = tl.sum(tl.where(i == n, starts, 0), 0), tl.sum(tl.where(i == n, lengths, 0), 0)
    count, parts = tl.sum(tl.where(i == n, counts, 0), 0), tl.sum(tl.where(i == n, pieces, 0), 0)
    # Programs start in the table's order: whole segments before the sequences' shorter last ones, so that all end together.
    wholes = counts // per_segment
    first_whole = tl.sum(tl.where(i < n, wholes, 0), 0)
    first_rest = tl.sum(wholes, 0) + first_segment - first_whole
    own_wholes = count // per_segment
    tl.store(sequences + n * 4, first_chunk)
    tl.store(sequences + n * 4 + 1, count)
    tl.store(sequences + n * 4 + 2, first_segment)
    tl.store(sequences + n * 4 + 3, parts)
    for at in range(0, count, BLOCK):
        j = at + b
        to, here = chunks + (first_chunk + j) * 4, j < count
        tl.store(to, n, mask=here)
        tl.store(to + 1, j * C, mask=here)
        tl.store(to + 2, row, mask=here)
        tl.store(to + 3, length, mask=here)
    for at in range(0, parts, BLOCK):
        j = at + b
        place = tl.where(j < own_wholes, first_whole + j, first_rest)
        to, here = segments + place * 7, j < parts
        tl.store(to, n, mask=here)
        tl.store(to + 1, j * per_segment * C, mask=here)
        tl.store(to + 2, row, mask=here)
        tl.store(to + 3, length, mask=here)
        tl.store(to + 4, first_chunk + j * per_segment, mask=here)
        tl.store(to + 5, tl.minimum(count - j * per_segment, per_segment), mask=here)
        tl.store(to + 6, first_segment + j, mask=here)
    own_blocks = tl.sum(tl.where(i == n, blocks, 0), 0)
    for at in range(0, own_blocks, BLOCK):
        j = at + b
        to, here = keys + (first_block + j) * 4, j < own_blocks
        tl.store(to, n, mask=here)
        tl.store(to + 1, j * KB - ring, mask=here)
        tl.store(to + 2, row, mask=here)
        tl.store(to + 3, length, mask=here)


def count_chunks(batch: int, time: int, packed: int, C: int) -> int:
    """Rows of the table of chunks: `batch` sequences of `time` tokens, or (packed > 0) that many in `time` tokens."""
    return time // C + packed if packed else batch * (-(-time // C))


def _chunks_per_segment(total: int, sequences: int, exact: bool, programs: int, fills: int, device: torch.device) -> int:
    """Chunks of a segment, for `total` chunks in all and `programs` programs a segment; exact: sequences are alike. A
    multiprocessor holds `fills` programs, and all should end together; if 0, many short ones fill the GPU several times
    over."""
    if not fills:
        return max(1, min(32, total * programs // 1024))
    room = fills * (torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4)
    if not exact:
        # Lengths are not known here. In a simulation of packs of 2 to 64 sequences two rounds of programs end together best.
        return max(1, -(-total * programs // (2 * room)))
    longest = max(1, -(-total // sequences))

    def time(size: int) -> float:
        return -(-sequences * -(-longest // size) * programs // room) * (size + 1)

    sizes = {-(-longest // pieces) for pieces in range(1, min(longest, 64) + 1)}
    return min(sizes, key=lambda size: (time(size), -size))


def _tables(cu_seqlens: Tensor, time: int, exact: bool, C: int, KB: int, ring: int, programs: int, fills: int) -> Plan:
    """time: of all sequences together; exact: they are alike. programs: how many each segment makes."""
    N, device = len(cu_seqlens) - 1, cu_seqlens.device
    total = count_chunks(N, time // N, 0, C) if exact else count_chunks(1, time, N, C)
    per_segment = _chunks_per_segment(total, N, exact, programs, fills, device)
    longest = -(-time // N // C) if exact else -(-time // C)
    spare = 0 if exact else N
    lengths = total, N * -(-longest // per_segment) if exact else total // per_segment + spare, N
    blocks = N * -(-(time // N + ring) // KB) if exact else (time + N * ring) // KB + spare
    widths = 4, 7, 4, 4
    sizes = [rows * width for rows, width in zip((*lengths, blocks), widths, strict=True)]
    whole = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
    tables = [part.view(-1, width) for part, width in zip(whole.split(sizes), widths, strict=True)]
    launch(
        nha_kernel_plan, (N,), cu_seqlens, *tables, N, C, KB, ring, per_segment,
        NP=power_of_2(N), BLOCK=128, num_warps=4,
    )  # fmt: skip
    return Plan(*tables, longest, -(-longest // per_segment))


@lru_cache(maxsize=64)
def _plan_of_rows(batch: int, time: int, C: int, KB: int, ring: int, programs: int, fills: int, device: torch.device) -> Plan:
    cu_seqlens = torch.arange(batch + 1, dtype=torch.int32, device=device) * time
    return _tables(cu_seqlens, batch * time, True, C, KB, ring, programs, fills)


def make_plan(
    batch: int,
    time: int,
    cu_seqlens: Tensor | None,
    C: int,
    KB: int,
    ring: int,
    programs: int,
    fills: int,
    device: torch.device,
) -> Plan:
    """The plan of a call, made without the host's reading anything; for rows alike once and for all. programs, fills: see
    `_chunks_per_segment`."""
    if cu_seqlens is None:
        # What a graph under capture would make is written when it is replayed: nothing for other calls to find.
        capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        make = _plan_of_rows.__wrapped__ if capturing else _plan_of_rows
        return make(batch, time, C, KB, ring, programs, fills, device)
    return _tables(cu_seqlens, time, False, C, KB, ring, programs, fills)
