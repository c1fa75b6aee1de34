"""The forward's parallel part: with every chunk's start state at hand, all chunks' outputs are independent.

Legend: B, T as given, flat here (rows of all sequences); HQ query heads, H key-value heads, G = HQ / H, K, V head dimensions,
M slots, D = K + V; C tokens of a chunk, GB query heads a program takes, R = C * GB rows: row r is token r // GB, head r % GB.

One program is one chunk and GB query heads. It goes over the slots in blocks of MB and then over the window in blocks of BK
keys, with one running softmax. Slot logits at token i are F_i * (head * (q S0^T) + lower(q k^T) W), S0 the state at the chunk's
start, and the values come back the same way (see `common`). Slots come first: the window's part needs few registers beside the
accumulator, the slots' many.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.nha.triton.common import LOG2E, by_token, columns, gates, is_other, mix, split_decays, turned, unmix, written


@triton.jit(do_not_specialize=["window", "delay", "ring"])
def nha_fwd_kernel_out(
    q, k, v, g, slot_q, slot_k, bias, cos, sin, states, flags, seen, table,
    out, lse, lse_slots, lse_window,
    scale, window, delay, ring,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr, BK: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    WD: tl.constexpr, PREC: tl.constexpr, LIMIT: tl.constexpr, PIECES: tl.constexpr, EXACT: tl.constexpr,
    TURN_Q: tl.constexpr, TURN_K: tl.constexpr, ANGLES_BY_ROW: tl.constexpr, SLOTS: tl.constexpr, BIAS: tl.constexpr,
    SINK: tl.constexpr, SEEN: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """q, slot_q [rows, HQ, K]; k, slot_k, v, g [rows, H, *] with `ring` rows before each sequence; states [chunks, H, M, D];
    out [rows, HQ, V]; lse [rows, HQ] in units of log 2, lse_slots and lse_window likewise in natural units, if PARTS."""
    R: tl.constexpr = C * GB
    blocks: tl.constexpr = (G + GB - 1) // GB
    D: tl.constexpr = K + V
    chunk = tl.program_id(0) // (H * blocks)
    head = tl.program_id(0) % (H * blocks)
    h, part = head // blocks, head % blocks
    if SLOTS:  # noqa: SIM102
        if is_other(flags, chunk, h, H, M, MB, EXACT):
            return
    n = tl.load(table + chunk * 4)
    step = tl.load(table + chunk * 4 + 1)
    row = tl.load(table + chunk * 4 + 2)
    length = tl.load(table + chunk * 4 + 3)
    past = tl.load(seen + n).to(tl.int32) if SEEN else 0
    r = tl.arange(0, R)
    i = tl.arange(0, C)
    token = r // GB
    query_head = part * GB + r % GB
    is_row = (step + token < length) & (query_head < G)
    at_row = (row + step + token).to(tl.int64) * (H * G) + h * G + query_head
    base = row.to(tl.int64) + (n + 1).to(tl.int64) * ring
    angle = row if ANGLES_BY_ROW else 0
    kcol, kok = columns(K, KP)
    vcol, vok = columns(V, VP)
    scale2 = scale * LOG2E

    top = tl.full([R], float("-inf"), tl.float32)
    mass = tl.zeros([R], tl.float32)
    acc = tl.zeros([R, VP], tl.float32)
    if SLOTS:
        met = tl.load(slot_q + at_row[:, None] * K + kcol[None, :], mask=is_row[:, None] & kok[None, :], other=0.0)
        entering = step + i - delay
        alive = (step + i < length) & (entering >= -ring)
        in_row = (base + entering) * H + h
        in_k = tl.load(slot_k + in_row[:, None] * K + kcol[None, :], mask=alive[:, None] & kok[None, :], other=0.0)
        in_v = tl.load(v + in_row[:, None] * V + vcol[None, :], mask=alive[:, None] & vok[None, :], other=0.0)
        entered = token[:, None] >= i[None, :]
        met_k = tl.where(entered, tl.dot(met, tl.trans(in_k), input_precision=PREC), 0.0)
        shown = is_row if SINK else is_row & (past + step + token >= delay)
        for m0 in range(0, M, MB):
            slot = m0 + tl.arange(0, MB)
            is_slot = slot < M
            here = gates(g, in_row[:, None] * M + slot[None, :], alive[:, None] & is_slot[None, :])
            F, to_middle, E = split_decays(here, C, EXACT, PIECES)
            u = written(here, PIECES)
            W = E * u
            state = (chunk.to(tl.int64) * H + h) * M * D + slot[:, None] * D
            start_k = tl.load(states + state + kcol[None, :], mask=is_slot[:, None] & kok[None, :], other=0.0)
            start_v = tl.load(states + state + K + vcol[None, :], mask=is_slot[:, None] & vok[None, :], other=0.0)
            z = by_token(tl.dot(met, tl.trans(start_k), input_precision=PREC) * to_middle[None, :], F, C, GB, MB)
            z = (z + mix(met_k, F, W, u, here, C, GB, MB, WD, PREC, EXACT)) * scale2
            if BIAS:
                z += tl.load(bias + h * G + query_head, mask=is_row, other=0.0).to(tl.float32)[:, None] * LOG2E
            z = tl.where(shown[:, None] & is_slot[None, :], z, float("-inf"))
            higher = tl.maximum(top, tl.max(z, 1))
            finite = tl.where(higher == float("-inf"), 0.0, higher)
            p = tl.exp2(z - finite[:, None])
            shrink = tl.exp2(top - finite)
            mass = mass * shrink + tl.sum(p, 1)
            top = higher
            far = by_token(p * to_middle[None, :], F, C, GB, MB).to(start_v.dtype)
            acc = tl.dot(far, start_v, acc * shrink[:, None], input_precision=PREC)
            near = unmix(p, entered, F, W, u, here, C, GB, MB, WD, PREC, EXACT).to(in_v.dtype)
            acc = tl.dot(near, in_v, acc, input_precision=PREC)
    if PARTS:
        tl.store(lse_slots + at_row, (top + tl.log2(mass)) / LOG2E, mask=is_row)
        # A part's own maximum, for its sum may be nothing beside the other's.
        own_top = tl.full([R], float("-inf"), tl.float32)
        own_mass = tl.zeros([R], tl.float32)

    near_q = turned(q, at_row * K, is_row, cos, sin, angle + step + token, K, KP, TURN_Q)
    first = tl.maximum(step - window + 1, -tl.minimum(ring, past))
    stop = tl.where(window > 0, tl.minimum(step + C, length), first)
    for j0 in range(first, stop, BK):
        j = j0 + tl.arange(0, BK)
        held = j < stop
        key_row = (base + j) * H + h
        near_k = turned(k, key_row * K, held, cos, sin, angle + j, K, KP, TURN_K)
        near_v = tl.load(v + key_row[:, None] * V + vcol[None, :], mask=held[:, None] & vok[None, :], other=0.0)
        gap = (step + token)[:, None] - j[None, :]
        z = tl.dot(near_q, tl.trans(near_k), input_precision=PREC) * scale2
        z = tl.where((gap >= 0) & (gap < window) & held[None, :], z, float("-inf"))
        most = tl.max(z, 1)
        higher = tl.maximum(top, most)
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp2(z - finite[:, None])
        shrink = tl.exp2(top - finite)
        mass = mass * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(near_v.dtype), near_v, acc * shrink[:, None], input_precision=PREC)
        top = higher
        if PARTS:
            higher = tl.maximum(own_top, most)
            finite = tl.where(higher == float("-inf"), 0.0, higher)
            own_mass = own_mass * tl.exp2(own_top - finite) + tl.sum(tl.exp2(z - finite[:, None]), 1)
            own_top = higher
    if PARTS:
        tl.store(lse_window + at_row, (own_top + tl.log2(own_mass)) / LOG2E, mask=is_row)
    tl.store(lse + at_row, top + tl.log2(mass), mask=is_row)
    # A row that attends to nothing (no window, nothing in the slots yet) gives zeros.
    acc = acc / tl.where(mass > 0, mass, 1.0)[:, None]
    tl.store(out + at_row[:, None] * V + vcol[None, :], acc.to(out.dtype.element_ty), mask=is_row[:, None] & vok[None, :])


def chunk_outputs(call, states, flags, with_parts: bool):
    """(out [rows, HQ, V], lse [rows, HQ] in units of log 2, lse_slots, lse_window or None) of a `Call` and its chunk states."""
    rows, HQ, _ = call.q.shape
    V = call.v.shape[-1]
    out = torch.empty(rows, HQ, V, dtype=call.q.dtype, device=call.q.device)
    single = {"dtype": torch.float32, "device": call.q.device}
    lse = torch.empty(rows, HQ, **single)
    lse_slots = torch.empty(rows, HQ, **single) if with_parts else None
    lse_window = torch.empty(rows, HQ, **single) if with_parts else None
    programs = len(call.plan.chunks) * call.H * triton.cdiv(call.G, call.tiles.GB)
    for exact in call.passes:
        nha_fwd_kernel_out[(programs,)](
            call.q, call.k, call.v, call.g, call.slot_q, call.slot_k, call.bias, call.cos, call.sin, states, flags, call.seen,
            call.plan.chunks, out, lse, lse_slots, lse_window, call.scale, call.window, call.delay, call.ring,
            **call.constants, BK=call.tiles.BK, PARTS=with_parts, EXACT=exact,
            num_warps=call.tiles.warps, num_stages=call.tiles.stages, maxnreg=call.tiles.registers,
        )  # fmt: skip
    return out, lse, lse_slots, lse_window
