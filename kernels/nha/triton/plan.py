"""How a call is cut up: tile sizes by shape, and the tables that tell each program which tokens are its own.

Legend: C tokens of a chunk, GB query heads a program takes, so that C * GB rows fill a tensor-core tile; N sequences.

Sequences start their own chunks. Tables are made on the host, int32, one row a program:
chunks [n, first step, first row in the pack, length];
segments (runs of chunks) [n, first step, row, length, first chunk, count];
sequences [first chunk, chunks, first segment, segments];
keys as chunks, but from `ring` tokens before each sequence's start.

The tile sizes were chosen on an H200 by sweeps at T = 32768; 128 rows of 32 tokens and 4 heads beat 64 rows and 16 tokens
forward and backward together, since each chunk's state is written and read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import triton
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """Tile sizes of a shape. The same chunk serves forward and backward, whose states are stored at its starts."""

    C: int
    GB: int
    MB: int
    BK: int
    KP: int
    VP: int
    warps: int
    walk_warps: int
    stages: int
    back_stages: int
    registers: int | None


@lru_cache
def choose_tiles(group: int, slots: int, key_dim: int, value_dim: int, dtype: torch.dtype, turns: bool) -> Tiles:
    """Tiles for G, M, K and V, with or without rotary turns: 128 rows where registers allow it, 64 where they do not."""
    pad = lambda n: max(16, triton.next_power_of_2(n))  # noqa: E731
    half_padded = lambda n: 2 * max(8, triton.next_power_of_2(-(-n // 2)))  # noqa: E731
    KP, VP = half_padded(key_dim), half_padded(value_dim)
    heads, widest = triton.next_power_of_2(group), max(KP, VP)
    stages, registers = 1, None
    if dtype == torch.float32:
        GB, C, BK = min(heads, 2 if widest <= 128 else 1), 16, 16
    elif widest > 128:
        GB, C, BK = min(heads, 2), 32, 32
    elif dtype == torch.float16:
        # Its split decays are fp32 operands, twice the shared memory of bf16's.
        GB, BK = min(heads, 4), 32
        C = 64 // GB
    else:
        # Turning a tile takes three more, so that fewer keys fit, and one stage of them.
        GB, BK = min(heads, 8), 32 if turns else 64
        C = 64 if GB == 1 else min(128 // GB, 32)
        if C * GB == 128 and not turns:
            stages = 3
        elif GB == 1 and widest <= 64 and not turns:
            # Three programs a multiprocessor rather than two are worth a few spills.
            stages, registers = 2, 168
    MB = min(pad(slots), 64 if dtype != torch.float32 and widest <= 128 else 32)
    # Eight warps on 64 rows of 16 tokens made Triton 3.6 read out of bounds; such tiles take four.
    warps = 8 if C * GB >= 128 or widest > 128 else 4
    back_stages = 1 if turns else 2
    return Tiles(C, GB, MB, BK, KP, VP, warps, 8 if widest > 128 else 4, stages, back_stages, registers)


@dataclass(frozen=True)
class Plan:
    """Tables for the kernels, on the device."""

    chunks: Tensor
    segments: Tensor
    sequences: Tensor
    keys: Tensor
    most_chunks: int
    most_segments: int


def _tables(bounds: list[tuple[int, int]], C: int, ring: int, parallel: int, device: torch.device) -> Plan:
    """bounds: (first row, length) of each sequence; parallel: programs that each segment makes."""
    total = sum(-(-length // C) for _, length in bounds)
    # Enough segments to fill a large GPU several times over, yet few enough that the scan over them is short.
    per_segment = max(1, min(32, total * parallel // 1024))
    chunks, segments, sequences, keys = [], [], [], []
    for n, (row, length) in enumerate(bounds):
        count = -(-length // C)
        sequences.append((len(chunks), count, len(segments), -(-count // per_segment)))
        for first in range(0, count, per_segment):
            held = min(per_segment, count - first)
            segments.append((n, first * C, row, length, len(chunks) + first, held))
        chunks += [(n, i * C, row, length) for i in range(count)]
        keys += [(n, start, row, length) for start in range(-ring, length, C)]
    to = lambda rows, width: torch.tensor(rows, dtype=torch.int32).view(-1, width).to(device)  # noqa: E731
    longest = [max(row[column] for row in sequences) for column in (1, 3)]
    return Plan(to(chunks, 4), to(segments, 6), to(sequences, 4), to(keys, 4), *longest)


@lru_cache(maxsize=64)
def _rows_plan(batch: int, time: int, C: int, ring: int, parallel: int, device: torch.device) -> Plan:
    return _tables([(b * time, time) for b in range(batch)], C, ring, parallel, device)


@lru_cache(maxsize=64)
def _packed_plan(ends: tuple[int, ...], C: int, ring: int, parallel: int, device: torch.device) -> Plan:
    bounds = [(start, end - start) for start, end in pairwise(ends)]
    return _tables(bounds, C, ring, parallel, device)


def make_plan(
    batch: int, time: int, ends: tuple[int, ...] | None, C: int, ring: int, parallel: int, device: torch.device
) -> Plan:
    """The plan of a call; made once for each layout."""
    if ends is None:
        return _rows_plan(batch, time, C, ring, parallel, device)
    return _packed_plan(ends, C, ring, parallel, device)
