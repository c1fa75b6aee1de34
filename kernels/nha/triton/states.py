"""The slots at the start of every chunk, and the gradients that flow back into them: the parts that are serial in time.

Legend: N sequences, H key-value heads, K, V head dimensions, M slots, D = K + V (keys and values of a slot lie one after the
other), C tokens of a chunk, P parts of a chunk's gradient (one for each block of query heads). States are [D, M] in memory: so
laid, they are the right-hand side of the products that read them and the accumulator of those that write them.

Forward: `walk` goes through each segment of chunks from its end and leaves what it adds to the slots and how much it decays
them; `scan` joins the segments; then either the stream (see `stream`) carries the state on itself, or `store` walks again and
writes every chunk's. Walking twice reads k, v and g twice, which is less than each chunk's fp32 increment would be.
Backward: `flow_back` joins the chunks' gradients.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.common import columns, exact_sum, gates, is_flagged, log2e, segment_at, suffix_decays, written
from kernels.nha.triton.counts import cdiv, power_of_2
from kernels.nha.triton.launch import launch


@triton.jit
def _entering(
    k, v, g, base, first, alive, slot, is_slot, h,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, DESC: tl.constexpr,
):  # fmt: skip
    """Tiles k [C, KP], v [C, VP] and log decays [C, MB] of the tokens from `first` on, by descriptor or by pointer."""
    if DESC:
        at = (base + first).to(tl.int32)
        in_k, in_v = k.load([at, h * K]), v.load([at, h * V])
        here = tl.where(alive[:, None], tl.maximum(g.load([at, h * M]).to(tl.float32), -1e30), 0.0)
    else:
        kcol, kok = columns(K, KP)
        vcol, vok = columns(V, VP)
        rows = (base + first + tl.arange(0, C)) * H + h
        here = gates(g, rows[:, None] * M + slot[None, :], alive[:, None] & is_slot[None, :])
        in_k = tl.load(k + rows[:, None] * K + kcol[None, :], mask=alive[:, None] & kok[None, :], other=0.0)
        in_v = tl.load(v + rows[:, None] * V + vcol[None, :], mask=alive[:, None] & vok[None, :], other=0.0)
    return in_k, in_v, here


@triton.jit(do_not_specialize=["ring", "delay"])
def nha_fwd_kernel_walk(
    k, v, g, table, added, segment_totals, totals, flags,
    ring, delay,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, MB: tl.constexpr,
    PREC: tl.constexpr, LIMIT: tl.constexpr, PIECES: tl.constexpr, DESC: tl.constexpr,
):  # fmt: skip
    """A segment, from its last chunk to its first: what it adds, added [segments, H, D, M], and its decay, segment_totals
    [segments, H, M]; of each chunk totals [chunks, H, M], and flags [chunks, H, blocks of slots] (see `common`)."""
    D: tl.constexpr = K + V
    segment, h, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2) * MB + tl.arange(0, MB)
    n, step, row, length, chunk, count, number = segment_at(table, segment)
    i = tl.arange(0, C)
    kcol, kok = columns(K, KP)
    vcol, vok = columns(V, VP)
    is_slot = slot < M
    base = row.to(tl.int64) + (n + 1).to(tl.int64) * ring
    rest = tl.zeros([MB], tl.float32)
    memory_k = tl.zeros([KP, MB], tl.float32)
    memory_v = tl.zeros([VP, MB], tl.float32)
    for back in tl.range(0, count, num_stages=3):
        c = count - 1 - back
        now = step + c * C
        alive = (now + i < length) & (now + i - delay >= -ring)
        in_k, in_v, here = _entering(k, v, g, base, now - delay, alive, slot, is_slot, h, H, K, V, M, C, KP, VP, DESC)
        later = exact_sum((i[None, :] > i[:, None]).to(tl.float32), here, PIECES) + rest[None, :]
        weight = (tl.exp2(later * log2e()) * written(here, PIECES)).to(in_k.dtype)
        memory_k = tl.dot(tl.trans(in_k), weight, memory_k, input_precision=PREC)
        memory_v = tl.dot(tl.trans(in_v), weight, memory_v, input_precision=PREC)
        total = tl.sum(here, 0)
        tl.store(totals + ((chunk + c) * H + h) * M + slot, total * log2e(), mask=is_slot)
        flag = flags + ((chunk + c) * H + h) * tl.num_programs(2) + tl.program_id(2)
        tl.store(flag, (tl.max(-total, 0) * log2e() > LIMIT).to(tl.int32))
        rest += total
    at = (number * H + h) * D * M + slot[None, :]
    # Rows to spare have the number of another.
    is_slot = slot < tl.where(count > 0, M, 0)
    tl.store(added + at + kcol[:, None] * M, memory_k, mask=kok[:, None] & is_slot[None, :])
    tl.store(added + at + (K + vcol)[:, None] * M, memory_v, mask=vok[:, None] & is_slot[None, :])
    tl.store(segment_totals + (number * H + h) * M + slot, rest * log2e(), mask=is_slot)


@triton.jit(do_not_specialize=["ring", "delay"])
def nha_fwd_kernel_store(
    k, v, g, table, starts, totals, flags, states,
    ring, delay,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, MB: tl.constexpr,
    PREC: tl.constexpr, PIECES: tl.constexpr, FLAGGED: tl.constexpr,
):  # fmt: skip
    """A segment, from starts [segments, H, D, M]: the states [chunks, H, D, M] of its chunks: decayed to the chunk's end, those
    of flagged chunks as they are at its start (see `common`); if FLAGGED those alone, of which there are mostly none."""
    D: tl.constexpr = K + V
    segment, h, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2) * MB + tl.arange(0, MB)
    n, step, row, length, chunk, count, number = segment_at(table, segment)
    if FLAGGED:
        wanted = 0
        for c in range(count):
            wanted = tl.where(is_flagged(flags, chunk + c, h, H, M, MB), c + 1, wanted)
        count = wanted
    i = tl.arange(0, C)
    kcol, kok = columns(K, KP)
    vcol, vok = columns(V, VP)
    is_slot = slot < M
    k_tile, k_keep = kcol[:, None] * M + slot[None, :], kok[:, None] & is_slot[None, :]
    v_tile, v_keep = (K + vcol)[:, None] * M + slot[None, :], vok[:, None] & is_slot[None, :]
    at_start = (number * H + h) * D * M
    memory_k = tl.load(starts + at_start + k_tile, mask=k_keep, other=0.0)
    memory_v = tl.load(starts + at_start + v_tile, mask=v_keep, other=0.0)
    base = row.to(tl.int64) + (n + 1).to(tl.int64) * ring
    for c in range(count):
        now = step + c * C
        at = ((chunk + c) * H + h) * D * M
        total = tl.load(totals + ((chunk + c) * H + h) * M + slot, mask=is_slot, other=0.0)
        kept = tl.exp2(total)[None, :]
        flagged = is_flagged(flags, chunk + c, h, H, M, MB)
        if flagged or not FLAGGED:
            stored = tl.where(flagged, 1.0, kept)
            tl.store(states + at + k_tile, (memory_k * stored).to(states.dtype.element_ty), mask=k_keep)
            tl.store(states + at + v_tile, (memory_v * stored).to(states.dtype.element_ty), mask=v_keep)
        alive = (now + i < length) & (now + i - delay >= -ring)
        in_k, in_v, here = _entering(k, v, g, base, now - delay, alive, slot, is_slot, h, H, K, V, M, C, KP, VP, False)
        weight = (suffix_decays(here, C, PIECES) * written(here, PIECES)).to(in_k.dtype)
        memory_k = tl.dot(tl.trans(in_k), weight, memory_k * kept, input_precision=PREC)
        memory_v = tl.dot(tl.trans(in_v), weight, memory_v * kept, input_precision=PREC)


@triton.jit
def nha_fwd_kernel_scan(
    added, segment_totals, sequences, first, starts, final,
    M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, FIRST: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """starts [segments, H, D, M] and final [N, H, D, M] from what each segment adds, added [segments, H, D, M].

    A program is E elements of a state. Steps are taken AHEAD at a time, all their loads before the first is needed.
    """
    n, h, H = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    e = tl.program_id(2) * E + tl.arange(0, E)
    inside, slot = e < D * M, e % M
    segment = tl.load(sequences + n * 4 + 2).to(tl.int64)
    count = tl.load(sequences + n * 4 + 3)
    whole = (n.to(tl.int64) * H + h) * D * M + e
    memory = tl.zeros([E], tl.float32)
    if FIRST:
        memory += tl.load(first + whole, mask=inside, other=0.0)
    place = tl.zeros([E], tl.int32)
    for s in range(0, count, AHEAD):
        new, total = (), ()
        for step in tl.static_range(AHEAD):
            at = (segment + tl.minimum(s + step, count - 1)) * H + h
            new = new + (tl.load(added + at * D * M + e, mask=inside, other=0.0),)  # noqa: RUF005
            total = total + (tl.load(segment_totals + at * M + slot),)  # noqa: RUF005
        for step in tl.static_range(AHEAD):
            there = inside & (place + (s + step) < count)
            tl.store(starts + ((segment + s + step) * H + h) * D * M + e, memory, mask=there)
            memory = tl.where(there, tl.exp2(total[step]) * memory + new[step], memory)
    tl.store(final + whole, memory, mask=inside)


@triton.jit
def nha_bwd_kernel_scan(
    added, totals, sequences, last, ends, first,
    M: tl.constexpr, D: tl.constexpr, P: tl.constexpr, E: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """ends [chunks, H, D, M], the gradients of the chunks' end states, from what each chunk adds to that of its start state,
    added [chunks, H, P, D, M]. last, first [N, H, D, M]: the gradients at the sequence's end and start. Steps as forward."""
    n, h, H = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    e = tl.program_id(2) * E + tl.arange(0, E)
    inside, slot = e < D * M, e % M
    chunk = tl.load(sequences + n * 4).to(tl.int64)
    count = tl.load(sequences + n * 4 + 1)
    whole = (n.to(tl.int64) * H + h) * D * M + e
    flow = tl.load(last + whole, mask=inside, other=0.0)
    place = tl.zeros([E], tl.int32)
    for s in range(0, count, AHEAD):
        new, total = (), ()
        for step in tl.static_range(AHEAD):
            at = (chunk + tl.maximum(count - 1 - s - step, 0)) * H + h
            part = tl.load(added + at * P * D * M + e, mask=inside, other=0.0).to(tl.float32)
            for p in tl.static_range(P - 1):
                part += tl.load(added + (at * P + p + 1) * D * M + e, mask=inside, other=0.0).to(tl.float32)
            new = new + (part,)  # noqa: RUF005
            total = total + (tl.load(totals + at * M + slot),)  # noqa: RUF005
        for step in tl.static_range(AHEAD):
            there = inside & (place + (s + step) < count)
            at = ((chunk + count - 1 - s - step) * H + h) * D * M
            tl.store(ends + at + e, flow.to(ends.dtype.element_ty), mask=there)
            flow = tl.where(there, tl.exp2(total[step]) * flow + new[step], flow)
    tl.store(first + whole, flow, mask=inside)


def _ahead(steps: int, most: int) -> int:
    return min(most, power_of_2(max(steps, 1)))


def _constants(call, *names: str) -> dict:
    return {name: call.constants[name] for name in names}


def segment_states(call, first: Tensor | None, totals: Tensor, flags: Tensor, final: Tensor) -> Tensor:
    """starts [segments, H, D, M] fp32 of a `Call`; writes totals, flags and final."""
    plan, tiles, H = call.plan, call.tiles, call.H
    M, D = call.constants["M"], call.constants["K"] + call.constants["V"]
    N, segments, blocks = len(plan.sequences), len(plan.segments), cdiv(M, tiles.MB)
    single = {"dtype": torch.float32, "device": call.k.device}
    added, starts = torch.empty(segments, H, D, M, **single), torch.empty(segments, H, D, M, **single)
    segment_totals = torch.empty(segments, H, M, **single)
    tensors = (call.slot_k, call.v, call.g)
    if call.streams:
        tensors = tuple(call.rows_of_head(x, tiles.C) for x in tensors)
    if segments:
        launch(
            nha_fwd_kernel_walk, (segments, H, blocks),
            *tensors, plan.segments, added, segment_totals, totals, flags, call.ring, call.delay,
            **_constants(call, "H", "K", "V", "M", "C", "KP", "VP", "PREC", "PIECES"), LIMIT=call.limit,
            MB=M if call.streams else tiles.MB, DESC=call.streams, num_warps=tiles.walk_warps, num_stages=3,
        )  # fmt: skip
    E = 256
    launch(
        nha_fwd_kernel_scan, (N, H, cdiv(D * M, E)),
        added, segment_totals, plan.sequences, first, starts, final,
        M=M, D=D, E=E, FIRST=first is not None, AHEAD=_ahead(plan.most_segments, 8), num_warps=1,
    )  # fmt: skip
    return starts


def store_states(call, starts: Tensor, totals: Tensor, flags: Tensor, states: Tensor, flagged: bool) -> None:
    """Writes the chunks' states, or the flagged ones' alone, from those at the segments' starts."""
    plan, tiles = call.plan, call.tiles
    if len(plan.segments):
        launch(
            nha_fwd_kernel_store, (len(plan.segments), call.H, cdiv(call.constants["M"], tiles.MB)),
            call.slot_k, call.v, call.g, plan.segments, starts, totals, flags, states, call.ring, call.delay,
            **_constants(call, "H", "K", "V", "M", "C", "KP", "VP", "MB", "PREC", "PIECES"), FLAGGED=flagged,
            num_warps=tiles.walk_warps, num_stages=1 if flagged else 3,
        )  # fmt: skip


def flow_back(added: Tensor, totals: Tensor, last: Tensor, plan) -> tuple[Tensor, Tensor]:
    """(gradients of the chunks' end states [chunks, H, D, M], of the sequences' first states [N, H, D, M])."""
    chunks, H, P, D, M = added.shape
    # One part is read before its own place is written, and never again.
    ends = added.view(chunks, H, D, M) if P == 1 else torch.empty(chunks, H, D, M, dtype=added.dtype, device=added.device)
    first, E = torch.empty_like(last), 256
    launch(
        nha_bwd_kernel_scan, (len(last), H, cdiv(D * M, E)),
        added, totals, plan.sequences, last, ends, first,
        M=M, D=D, P=P, E=E, AHEAD=_ahead(plan.most_chunks, 16 if P == 1 else 4), num_warps=1,
    )  # fmt: skip
    return ends, first
