"""The forward's chunks, each by itself: with every chunk's start state at hand, all chunks' outputs are independent.

Legend: B, T as given, flat here (rows of all sequences); HQ query heads, H key-value heads, G = HQ / H, K, V head dimensions,
M slots, D = K + V; C tokens of a chunk, GB query heads a program takes, R = C * GB rows: row r is token r // GB, head r % GB.

One program is one chunk and GB query heads. It goes over the slots in blocks of MB and then over the window in blocks of BK
keys, with one running softmax. Slot logits at token i are F_i * (q S + lower(q k^T) W), S the state that is stored for the
chunk, and the values come back the same way (see `common`). Slots come first: the window's part needs few registers beside the
accumulator, the slots' many. `stream` does the same for most shapes without storing states; this form takes all shapes, and
(EXACT) the chunks whose gates are too strong for either.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.nha.triton.common import by_token, columns, gates, is_flagged, log2e, mix, split_decays, turned, unmix, written
from kernels.nha.triton.counts import cdiv
from kernels.nha.triton.launch import launch

# Chunks that one program of the EXACT pass looks through for flagged ones.
STRIP = 64


@triton.jit
def weighed(z, top, mass):
    """A running softmax after another block of logits z [R, BK], in units of log 2: (their weights, what those before shrink
    by, top, mass)."""
    higher = tl.maximum(top, tl.max(z, 1))
    finite = tl.where(higher == float("-inf"), 0.0, higher)
    p = tl.exp2(z - finite[:, None])
    shrink = tl.exp2(top - finite)
    return p, shrink, higher, mass * shrink + tl.sum(p, 1)


@triton.jit
def joined(z, values, top, mass, acc, PREC: tl.constexpr):
    """(top, mass, acc) of a running softmax with another block of logits z [R, BK] and values [BK, VP]; see `weighed`."""
    p, shrink, higher, mass = weighed(z, top, mass)
    return higher, mass, tl.dot(p.to(values.dtype), values, acc * shrink[:, None], input_precision=PREC)


@triton.jit
def _keys(
    near_q, k, v, row, held, h, cos, sin, angles, scale2,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, PREC: tl.constexpr,
    TURN_K: tl.constexpr,
):  # fmt: skip
    """(logits [R, BK] in units of log 2, values [BK, VP]) of a block of keys."""
    vcol, vok = columns(V, VP)
    near_k = turned(k, (row * H + h) * K, held, cos, sin, angles, K, KP, TURN_K)
    near_v = tl.load(v + (row * H + h)[:, None] * V + vcol[None, :], mask=held[:, None] & vok[None, :], other=0.0)
    return tl.dot(near_q, tl.trans(near_k), input_precision=PREC) * scale2, near_v


@triton.jit
def _chunk_output(
    q, k, v, g, slot_q, slot_k, bias, cos, sin, states, seen, table,
    out, lse, lse_slots, lse_window,
    chunk, h, part, scale, window, delay, ring,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr, BK: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    WD: tl.constexpr, PREC: tl.constexpr, PIECES: tl.constexpr, EXACT: tl.constexpr,
    TURN_Q: tl.constexpr, TURN_K: tl.constexpr, ANGLES_BY_ROW: tl.constexpr, SLOTS: tl.constexpr, BIAS: tl.constexpr,
    SINK: tl.constexpr, SEEN: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = C * GB
    D: tl.constexpr = K + V
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
    scale2 = scale * log2e()

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
            F, E = split_decays(here, C, EXACT, PIECES)
            u = written(here, PIECES)
            W = (E * u).to(WD)
            state = (tl.cast(chunk, tl.int64) * H + h) * D * M + slot[None, :]
            start_k = tl.load(states + state + kcol[:, None] * M, mask=kok[:, None] & is_slot[None, :], other=0.0)
            start_v = tl.load(states + state + (K + vcol)[:, None] * M, mask=vok[:, None] & is_slot[None, :], other=0.0)
            z = tl.dot(met.to(WD), start_k, input_precision=PREC)
            z = mix(z, met_k, F, W, u, here, C, GB, MB, WD, PREC, EXACT) * scale2
            if BIAS:
                z += tl.load(bias + h * G + query_head, mask=is_row, other=0.0).to(tl.float32)[:, None] * log2e()
            z = tl.where(shown[:, None] & is_slot[None, :], z, float("-inf"))
            higher = tl.maximum(top, tl.max(z, 1))
            finite = tl.where(higher == float("-inf"), 0.0, higher)
            p = tl.exp2(z - finite[:, None])
            shrink = tl.exp2(top - finite)
            mass = mass * shrink + tl.sum(p, 1)
            top = higher
            decayed = by_token(p, F, C, GB, MB).to(WD)
            acc = tl.dot(decayed, tl.trans(start_v), acc * shrink[:, None], input_precision=PREC)
            near = unmix(p, decayed, entered, W, u, here, C, GB, MB, PREC, EXACT).to(in_v.dtype)
            acc = tl.dot(near, in_v, acc, input_precision=PREC)
    if PARTS:
        tl.store(lse_slots + at_row, (top + tl.log2(mass)) / log2e(), mask=is_row)
        # The window's own maximum, for its sum may be nothing beside the slots'.
        acc_slots, top_slots, mass_slots = acc, top, mass
        top = tl.full([R], float("-inf"), tl.float32)
        mass = tl.zeros([R], tl.float32)
        acc = tl.zeros([R, VP], tl.float32)

    near_q = turned(q, at_row * K, is_row, cos, sin, angle + step + token, K, KP, TURN_Q)
    # Keys in blocks up to the chunk's end, so that in wide windows only the first and the last of them need a mask.
    lowest = tl.maximum(step - window + 1, -tl.minimum(ring, past))
    end = step + C - (C + BK - 1) // BK * BK
    full = tl.maximum(end - tl.maximum(lowest, step + C - window), 0) // BK * BK if WIDE else 0
    begin = end - full - tl.maximum(end - full - lowest + BK - 1, 0) // BK * BK
    if WIDE:
        for j0 in range(begin, end - full, BK):
            j = j0 + tl.arange(0, BK)
            held = (j >= lowest) & (j < length)
            z, near_v = _keys(
                near_q, k, v, base + j, held, h, cos, sin, angle + j, scale2, H, K, V, KP, VP, PREC, TURN_K
            )  # fmt: skip
            z = tl.where(held[None, :] & ((step + token)[:, None] - j[None, :] < window), z, float("-inf"))
            top, mass, acc = joined(z, near_v, top, mass, acc, PREC)
        for j0 in range(end - full, end, BK):
            j = j0 + tl.arange(0, BK)
            z, near_v = _keys(
                near_q, k, v, base + j, j < length, h, cos, sin, angle + j, scale2, H, K, V, KP, VP, PREC, TURN_K
            )  # fmt: skip
            top, mass, acc = joined(z, near_v, top, mass, acc, PREC)
    masked = end if WIDE else begin
    for j0 in range(masked, tl.where(window > 0, step + C, masked), BK):
        j = j0 + tl.arange(0, BK)
        held = (j >= lowest) & (j < length)
        zm, near_w = _keys(
            near_q, k, v, base + j, held, h, cos, sin, angle + j, scale2, H, K, V, KP, VP, PREC, TURN_K
        )  # fmt: skip
        gap = (step + token)[:, None] - j[None, :]
        zm = tl.where(held[None, :] & (gap >= 0) & (gap < window), zm, float("-inf"))
        top, mass, acc = joined(zm, near_w, top, mass, acc, PREC)
    if PARTS:
        tl.store(lse_window + at_row, (top + tl.log2(mass)) / log2e(), mask=is_row)
        higher = tl.maximum(top, top_slots)
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        near, far = tl.exp2(top - finite), tl.exp2(top_slots - finite)
        top, mass, acc = higher, mass * near + mass_slots * far, acc * near[:, None] + acc_slots * far[:, None]
    tl.store(lse + at_row, top + tl.log2(mass), mask=is_row)
    # A row that attends to nothing (no window, nothing in the slots yet) gives zeros.
    acc = acc / tl.where(mass > 0, mass, 1.0)[:, None]
    tl.store(out + at_row[:, None] * V + vcol[None, :], acc.to(out.dtype.element_ty), mask=is_row[:, None] & vok[None, :])


@triton.jit(do_not_specialize=["window", "delay", "ring", "chunks"])
def nha_fwd_kernel_out(
    q, k, v, g, slot_q, slot_k, bias, cos, sin, states, flags, seen, table,
    out, lse, lse_slots, lse_window,
    scale, window, delay, ring, chunks,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr, BK: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    WD: tl.constexpr, PREC: tl.constexpr, PIECES: tl.constexpr, EXACT: tl.constexpr,
    TURN_Q: tl.constexpr, TURN_K: tl.constexpr, ANGLES_BY_ROW: tl.constexpr, SLOTS: tl.constexpr, BIAS: tl.constexpr,
    SINK: tl.constexpr, SEEN: tl.constexpr, WIDE: tl.constexpr, PARTS: tl.constexpr, STRIP: tl.constexpr,
):  # fmt: skip
    """q, slot_q [rows, HQ, K]; k, slot_k, v, g [rows, H, *] with `ring` rows before each sequence; states [chunks, H, D, M];
    out [rows, HQ, V]; lse [rows, HQ] in units of log 2, lse_slots and lse_window likewise in natural units, if PARTS.
    If EXACT a program looks through STRIP chunks and takes the flagged ones; else it takes one, unless that is flagged."""
    blocks: tl.constexpr = (G + GB - 1) // GB
    first = tl.program_id(0) // (H * blocks)
    head = tl.program_id(0) % (H * blocks)
    h, part = head // blocks, head % blocks
    if EXACT:
        for chunk in range(first * STRIP, tl.minimum(first * STRIP + STRIP, chunks)):
            if is_flagged(flags, chunk, h, H, M, MB):
                _chunk_output(
                    q, k, v, g, slot_q, slot_k, bias, cos, sin, states, seen, table, out, lse, lse_slots, lse_window,
                    chunk, h, part, scale, window, delay, ring, H, G, K, V, M, C, GB, MB, BK, KP, VP, WD, PREC, PIECES,
                    EXACT, TURN_Q, TURN_K, ANGLES_BY_ROW, SLOTS, BIAS, SINK, SEEN, WIDE, PARTS,
                )  # fmt: skip
    else:
        if SLOTS:  # noqa: SIM102
            if is_flagged(flags, first, h, H, M, MB):
                return
        _chunk_output(
            q, k, v, g, slot_q, slot_k, bias, cos, sin, states, seen, table, out, lse, lse_slots, lse_window,
            first, h, part, scale, window, delay, ring, H, G, K, V, M, C, GB, MB, BK, KP, VP, WD, PREC, PIECES,
            EXACT, TURN_Q, TURN_K, ANGLES_BY_ROW, SLOTS, BIAS, SINK, SEEN, WIDE, PARTS,
        )  # fmt: skip


def write_outputs(call, states, flags, found, exact: bool) -> None:
    """Outputs of the flagged chunks (exact), or of all others, into `found`: out, lse, lse_slots and lse_window or None."""
    chunks, tiles = len(call.plan.chunks), call.tiles
    strips = cdiv(chunks, STRIP) if exact else chunks
    launch(
        nha_fwd_kernel_out, (strips * call.H * cdiv(call.G, tiles.GB),),
        call.q, call.k, call.v, call.g, call.slot_q, call.slot_k, call.bias, call.cos, call.sin, states, flags, call.seen,
        call.plan.chunks, *found, call.scale, call.window, call.delay, call.ring, chunks,
        **call.constants, BK=tiles.BK, PARTS=found[2] is not None, EXACT=exact, WIDE=tiles.wide, STRIP=STRIP,
        num_warps=tiles.warps, num_stages=1 if exact else tiles.stages,
        maxnreg=tiles.most_registers if exact else tiles.registers,
    )  # fmt: skip
