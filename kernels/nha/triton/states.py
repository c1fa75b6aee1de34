"""The slots at the start of every chunk, and the gradients that flow back into them: the parts that are serial in time.

Legend: N sequences, H key-value heads, K, V head dimensions, M slots, D = K + V (keys and values of a slot lie side by side),
C tokens of a chunk, P parts of a chunk's gradient (one for each block of query heads).

Forward: `walk` runs through each segment of chunks from zero and leaves its last state and total decay; `scan` joins the
segments; `walk` runs again from the right starts and stores every chunk's. Walking twice reads k, v and g twice, which is
less than writing and reading each chunk's fp32 increment would be. Backward: `flow_back` joins the chunks' gradients.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.common import LOG2E, columns, gates, overflows, suffix_decays, written


@triton.jit(do_not_specialize=["ring", "delay"])
def nha_fwd_kernel_walk(
    k, v, g, table, starts, states, totals, segment_totals, flags,
    ring, delay,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, MB: tl.constexpr,
    STORE: tl.constexpr, PREC: tl.constexpr, LIMIT: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """A segment. If STORE: from starts [segments, H, M, D], the states [chunks, H, M, D] at its chunks' starts, the chunks'
    decays totals [chunks, H, M], and flags [chunks, H, blocks of slots] (see `common`). Else, from zero, its last state into
    starts and its decay into segment_totals [segments, H, M]."""
    D: tl.constexpr = K + V
    segment, h, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2) * MB + tl.arange(0, MB)
    n = tl.load(table + segment * 6)
    step = tl.load(table + segment * 6 + 1)
    row = tl.load(table + segment * 6 + 2)
    length = tl.load(table + segment * 6 + 3)
    chunk = tl.load(table + segment * 6 + 4).to(tl.int64)
    count = tl.load(table + segment * 6 + 5)
    i = tl.arange(0, C)
    kcol, kok = columns(K, KP)
    vcol, vok = columns(V, VP)
    is_slot = slot < M
    k_tile = slot[:, None] * D + kcol[None, :]
    v_tile = slot[:, None] * D + K + vcol[None, :]
    k_keep, v_keep = is_slot[:, None] & kok[None, :], is_slot[:, None] & vok[None, :]
    at_start = (segment.to(tl.int64) * H + h) * M * D
    if STORE:
        memory_k = tl.load(starts + at_start + k_tile, mask=k_keep, other=0.0)
        memory_v = tl.load(starts + at_start + v_tile, mask=v_keep, other=0.0)
    else:
        memory_k = tl.zeros([MB, KP], tl.float32)
        memory_v = tl.zeros([MB, VP], tl.float32)
    all_of_it = tl.zeros([MB], tl.float32)
    base = row.to(tl.int64) + (n + 1).to(tl.int64) * ring
    last = tl.minimum(step + count * C, length)
    for c in range(count):
        now = step + c * C
        if STORE:
            at = ((chunk + c) * H + h) * M * D
            tl.store(states + at + k_tile, memory_k.to(states.dtype.element_ty), mask=k_keep)
            tl.store(states + at + v_tile, memory_v.to(states.dtype.element_ty), mask=v_keep)
        token = now + i - delay
        alive = (now + i < last) & (token >= -ring)
        rows = (base + token) * H + h
        here = gates(g, rows[:, None] * M + slot[None, :], alive[:, None] & is_slot[None, :])
        total = tl.sum(here, 0) * LOG2E
        weight = suffix_decays(here, C, PIECES) * written(here, PIECES)
        fresh_k = tl.load(k + rows[:, None] * K + kcol[None, :], mask=alive[:, None] & kok[None, :], other=0.0)
        fresh_v = tl.load(v + rows[:, None] * V + vcol[None, :], mask=alive[:, None] & vok[None, :], other=0.0)
        kept = tl.exp2(total)[:, None]
        into = tl.trans(weight).to(fresh_k.dtype)
        memory_k = tl.dot(into, fresh_k, memory_k * kept, input_precision=PREC)
        memory_v = tl.dot(into, fresh_v, memory_v * kept, input_precision=PREC)
        all_of_it += total
        if STORE:
            tl.store(totals + ((chunk + c) * H + h) * M + slot, total, mask=is_slot)
            flag = flags + ((chunk + c) * H + h) * tl.num_programs(2) + tl.program_id(2)
            tl.store(flag, overflows(here, C, LIMIT).to(tl.int32))
    if not STORE:
        tl.store(starts + at_start + k_tile, memory_k, mask=k_keep)
        tl.store(starts + at_start + v_tile, memory_v, mask=v_keep)
        tl.store(segment_totals + (segment.to(tl.int64) * H + h) * M + slot, all_of_it, mask=is_slot)


@triton.jit
def nha_fwd_kernel_scan(
    added, segment_totals, sequences, first, starts, final,
    H: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, FIRST: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """starts [segments, H, M, D] and final [N, H, M, D] from what each segment adds, added [segments, H, M, D].

    A program is E columns of one slot. Steps are taken AHEAD at a time, all their loads before the first is needed.
    """
    n, h = tl.program_id(0), tl.program_id(1)
    slot, e = tl.program_id(2) % M, (tl.program_id(2) // M) * E + tl.arange(0, E)
    inside = e < D
    segment = tl.load(sequences + n * 4 + 2).to(tl.int64)
    count = tl.load(sequences + n * 4 + 3)
    whole = ((n.to(tl.int64) * H + h) * M + slot) * D
    memory = tl.zeros([E], tl.float32)
    if FIRST:
        memory += tl.load(first + whole + e, mask=inside, other=0.0)
    place = tl.zeros([E], tl.int32)
    for s in range(0, count, AHEAD):
        new, total = (), ()
        for step in tl.static_range(AHEAD):
            at = ((segment + tl.minimum(s + step, count - 1)) * H + h) * M + slot
            new = new + (tl.load(added + at * D + e, mask=inside, other=0.0),)  # noqa: RUF005
            total = total + (tl.load(segment_totals + at),)  # noqa: RUF005
        for step in tl.static_range(AHEAD):
            there = inside & (place + (s + step) < count)
            at = ((segment + s + step) * H + h) * M + slot
            tl.store(starts + at * D + e, memory, mask=there)
            memory = tl.where(there, tl.exp2(total[step]) * memory + new[step], memory)
    tl.store(final + whole + e, memory, mask=inside)


@triton.jit
def nha_bwd_kernel_scan(
    added, totals, sequences, last, ends, first,
    H: tl.constexpr, M: tl.constexpr, D: tl.constexpr, P: tl.constexpr, E: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """ends [chunks, H, M, D], the gradients of the chunks' end states, from what each chunk adds to that of its start state,
    added [chunks, H, P, M, D]. last, first [N, H, M, D]: the gradients at the sequence's end and start. Steps as forward."""
    n, h = tl.program_id(0), tl.program_id(1)
    slot, e = tl.program_id(2) % M, (tl.program_id(2) // M) * E + tl.arange(0, E)
    inside = e < D
    chunk = tl.load(sequences + n * 4).to(tl.int64)
    count = tl.load(sequences + n * 4 + 1)
    whole = ((n.to(tl.int64) * H + h) * M + slot) * D
    flow = tl.load(last + whole + e, mask=inside, other=0.0)
    place = tl.zeros([E], tl.int32)
    for s in range(0, count, AHEAD):
        new, total = (), ()
        for step in tl.static_range(AHEAD):
            at = (chunk + tl.maximum(count - 1 - s - step, 0)) * H + h
            part = tl.load(added + (at * P * M + slot) * D + e, mask=inside, other=0.0).to(tl.float32)
            for p in tl.static_range(P - 1):
                part += tl.load(added + ((at * P + p + 1) * M + slot) * D + e, mask=inside, other=0.0).to(tl.float32)
            new = new + (part,)  # noqa: RUF005
            total = total + (tl.load(totals + at * M + slot),)  # noqa: RUF005
        for step in tl.static_range(AHEAD):
            there = inside & (place + (s + step) < count)
            at = ((chunk + count - 1 - s - step) * H + h) * M + slot
            tl.store(ends + at * D + e, flow.to(ends.dtype.element_ty), mask=there)
            flow = tl.where(there, tl.exp2(total[step]) * flow + new[step], flow)
    tl.store(first + whole + e, flow, mask=inside)


def _ahead(steps: int, most: int) -> int:
    return min(most, triton.next_power_of_2(max(steps, 1)))


def chunk_states(call, first: Tensor | None):
    """(states [chunks, H, M, D] in k's dtype, totals [chunks, H, M] fp32, flags int32, final [N, H, M, D] fp32) of a `Call`."""
    names = ("H", "K", "V", "M", "C", "KP", "VP", "MB", "PREC", "LIMIT", "PIECES")
    sizes = {name: call.constants[name] for name in names}
    plan, tiles, H, M, D = call.plan, call.tiles, sizes["H"], sizes["M"], sizes["K"] + sizes["V"]
    N, chunks, segments, blocks = len(plan.sequences), len(plan.chunks), len(plan.segments), triton.cdiv(M, tiles.MB)
    single = {"dtype": torch.float32, "device": call.k.device}
    added, starts = torch.empty(segments, H, M, D, **single), torch.empty(segments, H, M, D, **single)
    segment_totals = torch.empty(segments, H, M, **single)
    final = torch.empty(N, H, M, D, **single)
    states, totals = torch.empty(chunks, H, M, D, dtype=call.k.dtype, device=call.k.device), torch.empty(chunks, H, M, **single)
    flags = torch.empty(chunks, H, blocks, dtype=torch.int32, device=call.k.device)

    def walk(memory, store):
        nha_fwd_kernel_walk[(segments, H, blocks)](
            call.slot_k, call.v, call.g, plan.segments, memory, states, totals, segment_totals, flags, call.ring, call.delay,
            **sizes, STORE=store, num_warps=tiles.walk_warps, num_stages=3,
        )  # fmt: skip

    if segments:
        walk(added, store=False)
    E = min(256, triton.next_power_of_2(D))
    nha_fwd_kernel_scan[(N, H, M * triton.cdiv(D, E))](
        added, segment_totals, plan.sequences, first, starts, final,
        H=H, M=M, D=D, E=E, FIRST=first is not None, AHEAD=_ahead(plan.most_segments, 8), num_warps=1,
    )  # fmt: skip
    if segments:
        walk(starts, store=True)
    return states, totals, flags, final


def flow_back(added: Tensor, totals: Tensor, last: Tensor, plan) -> tuple[Tensor, Tensor]:
    """(gradients of the chunks' end states [chunks, H, M, D], of the sequences' first states [N, H, M, D])."""
    chunks, H, P, M, D = added.shape
    # One part is read before its own place is written, and never again.
    ends = added.view(chunks, H, M, D) if P == 1 else torch.empty(chunks, H, M, D, dtype=added.dtype, device=added.device)
    first, E = torch.empty_like(last), min(256, triton.next_power_of_2(D))
    nha_bwd_kernel_scan[(len(last), H, M * triton.cdiv(D, E))](
        added, totals, plan.sequences, last, ends, first,
        H=H, M=M, D=D, P=P, E=E, AHEAD=_ahead(plan.most_chunks, 16 if P == 1 else 4), num_warps=1,
    )  # fmt: skip
    return ends, first
