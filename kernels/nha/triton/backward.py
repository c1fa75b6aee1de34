"""The backward: everything of the forward is recomputed chunk by chunk from the stored chunk states and log-sum-exps.

Legend: as in `forward`; P blocks of query heads; z a slot logit without its scale, dz its gradient, p a softmax weight.

    queries   a program is a chunk and GB query heads: dq, dslot_q, what the chunk adds to the gradient of its start state, and
              what its queries add to the gradients of the tokens that enter in it
    scan      `states.flow_back` turns the start states' gradients into the gradient of every chunk's end state
    tokens    a program is a chunk and a key-value head: adds what the end state's gradient means for dslot_k, dv and dg
    window    a program is C keys and a key-value head: adds the window's dk and dv

Every element of every gradient is summed by one program in a fixed order, so runs are bitwise equal.

The gate's gradient is dg_j = B_j - a_j H_j, where H_j = <dS_j, token j> and B_j = <dS_j, a_j S_{j-1}> is what flows across j:
of each pair (token l written, token i read) with l < j <= i its term, of the start and end states likewise. The pairs' sum is
taken as all that is read from j on, less all of it that was written from j on, within one chunk, where both stay small.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.nha.triton.common import (
    by_token,
    columns,
    exact_sum,
    gates,
    gather,
    is_flagged,
    log2e,
    mix,
    split_decays,
    suffix_decays,
    sum_heads,
    sum_tokens,
    turned,
    turned_back,
    unmix,
    written,
)
from kernels.nha.triton.counts import cdiv
from kernels.nha.triton.launch import launch
from kernels.nha.triton.states import flow_back


@triton.jit
def _to_query(
    acc, near_q, d_o, k, v, row, held, reached, h, cos, sin, angles, mass, inner, scale,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, PREC: tl.constexpr,
    TURN_K: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """acc [R, KP] with what a block of the window's keys adds to the gradient of the queries."""
    vcol, vok = columns(V, VP)
    near_k = turned(k, (row * H + h) * K, held, cos, sin, angles, K, KP, TURN_K)
    near_v = tl.load(v + (row * H + h)[:, None] * V + vcol[None, :], mask=held[:, None] & vok[None, :], other=0.0)
    z = tl.dot(near_q, tl.trans(near_k), input_precision=PREC) * (scale * log2e()) - mass[:, None]
    if MASK:
        z = tl.where(reached, z, float("-inf"))
    dz = tl.exp2(z) * (tl.dot(d_o, tl.trans(near_v), input_precision=PREC) - inner[:, None]) * scale
    return tl.dot(dz.to(near_k.dtype), near_k, acc, input_precision=PREC)


@triton.jit
def _to_tokens(
    acc, rows, x, decayed, to_start, entered, W, u, here, d_state, state_keep, near, near_keep, last,
    C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr, WD: tl.constexpr, PREC: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """What rows [R, D] (queries or output gradients) with weights x [R, MB] add to the gradient of the chunk's state, stored at
    d_state [D, MB], and of the tokens that enter in it: acc [C, D], stored at `near` after the last block of slots; also x as
    weights of these tokens [R, C]."""
    add = tl.dot(tl.trans(rows.to(WD)), decayed, input_precision=PREC) * to_start[None, :]
    tl.store(d_state, add.to(d_state.dtype.element_ty), mask=state_keep)
    weights = unmix(x, decayed, entered, W, u, here, C, GB, MB, PREC, EXACT).to(rows.dtype)
    acc = tl.dot(tl.trans(weights), rows, acc, input_precision=PREC)
    if last:
        tl.store(near, acc.to(near.dtype.element_ty), mask=near_keep)
    return acc, weights


@triton.jit(do_not_specialize=["window", "delay", "ring", "token_rows"])
def nha_bwd_kernel_queries(
    q, k, v, g, slot_q, slot_k, bias, cos, sin, states, flags, seen, table,
    out, d_out, lse, far_share, near_share, delta, dq, d_slot_q, d_states, d_bias, near_dk, near_dv, near_dg, token_rows,
    scale, window, delay, ring,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, GB: tl.constexpr, MB: tl.constexpr, BK: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    WD: tl.constexpr, PREC: tl.constexpr, PIECES: tl.constexpr, EXACT: tl.constexpr,
    TURN_Q: tl.constexpr, TURN_K: tl.constexpr, ANGLES_BY_ROW: tl.constexpr, SLOTS: tl.constexpr, BIAS: tl.constexpr,
    SINK: tl.constexpr, SEEN: tl.constexpr, OWN_Q: tl.constexpr, WIDE: tl.constexpr,
    ALONE: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """delta [rows, HQ] = <out, d_out> less near_share; d_states [chunks, H, P, D, M] what each chunk adds; d_bias [chunks, HQ];
    near_dk, near_dv, near_dg [P, token_rows, H, *] what the chunk's queries add for the tokens that enter in it.
    WIDE: the window is many blocks of keys long; ALONE: there is none, and the slots are one block. far_share, near_share
    [rows, HQ], if PARTS: what the log-sum-exps of slots and window add to the gradient of a logit, over its weight."""
    R: tl.constexpr = C * GB
    blocks: tl.constexpr = (G + GB - 1) // GB
    D: tl.constexpr = K + V
    chunk = tl.program_id(0) // (H * blocks)
    head = tl.program_id(0) % (H * blocks)
    h, part = head // blocks, head % blocks
    if SLOTS:  # noqa: SIM102
        if is_flagged(flags, chunk, h, H, M, MB) != EXACT:
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
    scale2 = scale * log2e()

    out_tile = at_row[:, None] * V + vcol[None, :]
    d_o = tl.load(d_out + out_tile, mask=is_row[:, None] & vok[None, :], other=0.0)
    o = tl.load(out + out_tile, mask=is_row[:, None] & vok[None, :], other=0.0)
    inner = tl.sum(d_o.to(tl.float32) * o.to(tl.float32), 1)
    far_inner, near_inner = inner, inner
    if PARTS:
        far_inner -= tl.load(far_share + at_row, mask=is_row, other=0.0)
        near_inner -= tl.load(near_share + at_row, mask=is_row, other=0.0)
    tl.store(delta + at_row, near_inner, mask=is_row)
    mass = tl.load(lse + at_row, mask=is_row, other=0.0)
    mass = tl.where(mass == float("-inf"), 0.0, mass)

    q_tile = at_row[:, None] * K + kcol[None, :]
    q_keep = is_row[:, None] & kok[None, :]
    acc = tl.zeros([R, KP], tl.float32)
    if SLOTS:
        met = tl.load(slot_q + q_tile, mask=q_keep, other=0.0)
        entering = step + i - delay
        alive = (step + i < length) & (entering >= -ring)
        in_row = (base + entering) * H + h
        in_k = tl.load(slot_k + in_row[:, None] * K + kcol[None, :], mask=alive[:, None] & kok[None, :], other=0.0)
        in_v = tl.load(v + in_row[:, None] * V + vcol[None, :], mask=alive[:, None] & vok[None, :], other=0.0)
        entered = token[:, None] >= i[None, :]
        met_k = tl.where(entered, tl.dot(met, tl.trans(in_k), input_precision=PREC), 0.0)
        met_v = tl.where(entered, tl.dot(d_o, tl.trans(in_v), input_precision=PREC), 0.0)
        if not EXACT:
            met_k, met_v = met_k.to(WD), met_v.to(WD)
        shown = is_row if SINK else is_row & (past + step + token >= delay)
        shift = tl.zeros([R], tl.float32)
        if BIAS:
            shift += tl.load(bias + h * G + query_head, mask=is_row, other=0.0).to(tl.float32) * log2e()
        d_shift = tl.zeros([R], tl.float32)
        out_row = (token_rows * part + base + entering) * H + h
        token_dk = tl.zeros([C, KP], tl.float32)
        token_dv = tl.zeros([C, VP], tl.float32)
        for m0 in range(0, M, MB):
            slot = m0 + tl.arange(0, MB)
            is_slot = slot < M
            gate_keep = alive[:, None] & is_slot[None, :]
            here = gates(g, in_row[:, None] * M + slot[None, :], gate_keep)
            F, E = split_decays(here, C, EXACT, PIECES)
            u = written(here, PIECES)
            W = (E * u).to(WD)
            state = (tl.cast(chunk, tl.int64) * H + h) * D * M + slot[None, :]
            k_tile, k_keep = kcol[:, None] * M, kok[:, None] & is_slot[None, :]
            v_tile, v_keep = (K + vcol)[:, None] * M, vok[:, None] & is_slot[None, :]
            start_k = tl.load(states + state + k_tile, mask=k_keep, other=0.0)
            start_v = tl.load(states + state + v_tile, mask=v_keep, other=0.0)
            z = tl.dot(met.to(WD), start_k, input_precision=PREC)
            z = mix(z, met_k, F, W, u, here, C, GB, MB, WD, PREC, EXACT)
            p = z * scale2 + shift[:, None] - mass[:, None]
            p = tl.exp2(tl.where(shown[:, None] & is_slot[None, :], p, float("-inf")))
            dp = tl.dot(d_o.to(WD), start_v, input_precision=PREC)
            dp = mix(dp, met_v, F, W, u, here, C, GB, MB, WD, PREC, EXACT)
            if ALONE:
                # Slots that are much alike leave less of dp - inner than the rounding of `out` makes of inner.
                far_inner = tl.sum(p * dp, 1)
                if PARTS:
                    far_inner -= tl.load(far_share + at_row, mask=is_row, other=0.0)
            dz = p * (dp - far_inner[:, None])
            d_shift += tl.sum(dz, 1)
            dz = dz * scale
            read = sum_heads(dz * z + p * dp, C, GB, MB)
            to_start = tl.where(is_slot, 1.0, 0.0)
            if not EXACT:
                to_start = tl.exp2(tl.sum(here, 0) * log2e())
            add = ((tl.cast(chunk, tl.int64) * H + h) * blocks + part) * D * M + slot[None, :]
            at_v = out_row[:, None] * V + vcol[None, :]
            at_k = out_row[:, None] * K + kcol[None, :]
            v_alive, k_alive = alive[:, None] & vok[None, :], alive[:, None] & kok[None, :]
            last = m0 + MB >= M
            p_decayed = by_token(p, F, C, GB, MB).to(WD)
            from_tokens = gather(tl.zeros([C, MB], tl.float32), met_v, p, p_decayed, here, C, GB, MB, WD, PREC, EXACT)
            # Large tiles are short of shared memory, and finish the values before they begin with the keys; small ones are
            # short of registers, and keep the two products instead of what they were made from.
            if R >= 128:
                token_dv, _ = _to_tokens(
                    token_dv, d_o, p, p_decayed, to_start, entered, W, u, here, d_states + add + v_tile, v_keep,
                    near_dv + at_v, v_alive, last, C, GB, MB, WD, PREC, EXACT,
                )  # fmt: skip
            dz_decayed = by_token(dz, F, C, GB, MB).to(WD)
            from_tokens = gather(from_tokens, met_k, dz, dz_decayed, here, C, GB, MB, WD, PREC, EXACT)
            if not EXACT:
                from_tokens *= E
            # Two pieces of bf16 carry more than what they are sums of.
            later = exact_sum((i[None, :] >= i[:, None]).to(tl.float32), read - u * from_tokens, 0 if PIECES == 0 else 2)
            gate = later - (1.0 - u) * from_tokens
            tl.store(near_dg + out_row[:, None] * M + slot[None, :], gate.to(near_dg.dtype.element_ty), mask=gate_keep)
            if R < 128:
                token_dv, _ = _to_tokens(
                    token_dv, d_o, p, p_decayed, to_start, entered, W, u, here, d_states + add + v_tile, v_keep,
                    near_dv + at_v, v_alive, last, C, GB, MB, WD, PREC, EXACT,
                )  # fmt: skip
            token_dk, near = _to_tokens(
                token_dk, met, dz, dz_decayed, to_start, entered, W, u, here, d_states + add + k_tile, k_keep,
                near_dk + at_k, k_alive, last, C, GB, MB, WD, PREC, EXACT,
            )  # fmt: skip
            acc = tl.dot(dz_decayed, tl.trans(start_k), acc, input_precision=PREC)
            acc = tl.dot(near, in_k, acc, input_precision=PREC)
        if BIAS:
            per_head = sum_tokens(tl.where(is_row, d_shift, 0.0), C, GB)
            which = part * GB + tl.arange(0, GB)
            tl.store(d_bias + chunk.to(tl.int64) * (H * G) + h * G + which, per_head, mask=which < G)
    if OWN_Q:
        tl.store(d_slot_q + q_tile, acc.to(dq.dtype.element_ty), mask=q_keep)
        acc = tl.zeros([R, KP], tl.float32)
    from_slots = acc
    if TURN_Q:
        acc = tl.zeros([R, KP], tl.float32)
    if SLOTS and not (TURN_Q or OWN_Q):
        near_q = met
    else:
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
            reached = held[None, :] & ((step + token)[:, None] - j[None, :] < window)
            acc = _to_query(
                acc, near_q, d_o, k, v, base + j, held, reached, h, cos, sin, angle + j, mass, near_inner, scale,
                H, K, V, KP, VP, PREC, TURN_K, True,
            )  # fmt: skip
        for j0 in tl.range(end - full, end, BK, num_stages=STAGES):
            j = j0 + tl.arange(0, BK)
            acc = _to_query(
                acc, near_q, d_o, k, v, base + j, j < length, j < length, h, cos, sin, angle + j, mass, near_inner, scale,
                H, K, V, KP, VP, PREC, TURN_K, False,
            )  # fmt: skip
    masked = end if WIDE else begin
    for j0 in range(masked, tl.where(window > 0, step + C, masked), BK):
        j = j0 + tl.arange(0, BK)
        held = (j >= lowest) & (j < length)
        gap = (step + token)[:, None] - j[None, :]
        acc = _to_query(
            acc, near_q, d_o, k, v, base + j, held, held[None, :] & (gap >= 0) & (gap < window), h, cos, sin, angle + j,
            mass, near_inner, scale, H, K, V, KP, VP, PREC, TURN_K, True,
        )  # fmt: skip
    if TURN_Q:
        acc = turned_back(acc, is_row, cos, sin, angle + step + token, K, KP, R) + from_slots
    tl.store(dq + q_tile, acc.to(dq.dtype.element_ty), mask=q_keep)


@triton.jit(do_not_specialize=["delay", "ring", "token_rows"])
def nha_bwd_kernel_tokens(
    k, v, g, states, flags, table, ends, near_dk, near_dv, near_dg, dk, dv, dg, token_rows,
    delay, ring,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr, P: tl.constexpr,
    C: tl.constexpr, MB: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, PREC: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """k: what enters the slots; ends [chunks, H, D, M] the gradients of the chunks' end states; near_* as in `queries`."""
    D: tl.constexpr = K + V
    chunk = tl.program_id(0) // H
    h = tl.program_id(0) % H
    n = tl.load(table + chunk * 4)
    step = tl.load(table + chunk * 4 + 1)
    row = tl.load(table + chunk * 4 + 2)
    length = tl.load(table + chunk * 4 + 3)
    i = tl.arange(0, C)
    kcol, kok = columns(K, KP)
    vcol, vok = columns(V, VP)
    entering = step + i - delay
    alive = (step + i < length) & (entering >= -ring)
    in_row = (row.to(tl.int64) + (n + 1).to(tl.int64) * ring + entering) * H + h
    k_at, k_alive = in_row[:, None] * K + kcol[None, :], alive[:, None] & kok[None, :]
    v_at, v_alive = in_row[:, None] * V + vcol[None, :], alive[:, None] & vok[None, :]
    in_k = tl.load(k + k_at, mask=k_alive, other=0.0)
    in_v = tl.load(v + v_at, mask=v_alive, other=0.0)
    acc_k = tl.zeros([C, KP], tl.float32)
    acc_v = tl.zeros([C, VP], tl.float32)
    flagged = is_flagged(flags, chunk, h, H, M, MB)
    for m0 in range(0, M, MB):
        slot = m0 + tl.arange(0, MB)
        is_slot = slot < M
        gate_at, gate_keep = in_row[:, None] * M + slot[None, :], alive[:, None] & is_slot[None, :]
        here = gates(g, gate_at, gate_keep)
        u = written(here, PIECES)
        kept = suffix_decays(here, C, PIECES)
        at = (chunk.to(tl.int64) * H + h) * D * M + slot[None, :]
        k_tile, k_keep = kcol[:, None] * M, kok[:, None] & is_slot[None, :]
        v_tile, v_keep = (K + vcol)[:, None] * M, vok[:, None] & is_slot[None, :]
        end_k = tl.load(ends + at + k_tile, mask=k_keep, other=0.0)
        end_v = tl.load(ends + at + v_tile, mask=v_keep, other=0.0)
        start_k = tl.load(states + at + k_tile, mask=k_keep, other=0.0).to(tl.float32)
        start_v = tl.load(states + at + v_tile, mask=v_keep, other=0.0).to(tl.float32)
        across = tl.sum(start_k * end_k.to(tl.float32), 0) + tl.sum(start_v * end_v.to(tl.float32), 0)
        end_k, end_v = end_k.to(in_k.dtype), end_v.to(in_v.dtype)
        to_end = tl.dot(in_k, end_k, input_precision=PREC)
        to_end = tl.dot(in_v, end_v, to_end, input_precision=PREC) * kept
        weight = (kept * u).to(in_k.dtype)
        acc_k = tl.dot(weight, tl.trans(end_k), acc_k, input_precision=PREC)
        acc_v = tl.dot(weight, tl.trans(end_v), acc_v, input_precision=PREC)
        earlier = exact_sum((i[None, :] < i[:, None]).to(tl.float32), u * to_end, 0 if PIECES == 0 else 2)
        # A flagged chunk's state stands at its start.
        across *= tl.where(flagged, tl.exp2(tl.sum(here, 0) * log2e()), 1.0)
        gate = earlier + across[None, :] - (1.0 - u) * to_end
        for part in tl.static_range(P):
            gate += tl.load(near_dg + tl.cast(token_rows, tl.int64) * (part * H * M) + gate_at, mask=gate_keep, other=0.0)
        tl.store(dg + gate_at, gate.to(dg.dtype.element_ty), mask=gate_keep)
    for part in tl.static_range(P):
        acc_k += tl.load(near_dk + tl.cast(token_rows, tl.int64) * (part * H * K) + k_at, mask=k_alive, other=0.0).to(
            tl.float32
        )
        acc_v += tl.load(near_dv + tl.cast(token_rows, tl.int64) * (part * H * V) + v_at, mask=v_alive, other=0.0).to(
            tl.float32
        )
    tl.store(dk + k_at, acc_k.to(dk.dtype.element_ty), mask=k_alive)
    tl.store(dv + v_at, acc_v.to(dv.dtype.element_ty), mask=v_alive)


@triton.jit
def _to_key(
    acc_k, acc_v, near_k, near_v, q, d_out, lse, delta, at_row, is_row, reached, cos, sin, angles, scale,
    K: tl.constexpr, V: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, PREC: tl.constexpr,
    TURN_Q: tl.constexpr, MASK: tl.constexpr,
):  # fmt: skip
    """(acc_k [KB, KP], acc_v [KB, VP]) with what a block of queries adds to the gradients of the window's keys and values."""
    vcol, vok = columns(V, VP)
    near_q = turned(q, at_row * K, is_row, cos, sin, angles, K, KP, TURN_Q)
    d_o = tl.load(d_out + at_row[:, None] * V + vcol[None, :], mask=is_row[:, None] & vok[None, :], other=0.0)
    mass = tl.load(lse + at_row, mask=is_row, other=0.0)
    mass = tl.where(mass == float("-inf"), 0.0, mass)
    inner = tl.load(delta + at_row, mask=is_row, other=0.0)
    z = tl.dot(near_k, tl.trans(near_q), input_precision=PREC) * (scale * log2e()) - mass[None, :]
    if MASK:
        z = tl.where(reached, z, float("-inf"))
    p = tl.exp2(z)
    acc_v = tl.dot(p.to(d_o.dtype), d_o, acc_v, input_precision=PREC)
    dz = p * (tl.dot(near_v, tl.trans(d_o), input_precision=PREC) - inner[None, :]) * scale
    return tl.dot(dz.to(near_q.dtype), near_q, acc_k, input_precision=PREC), acc_v


@triton.jit(do_not_specialize=["window", "delay", "ring"])
def nha_bwd_kernel_window(
    q, k, v, cos, sin, seen, table,
    d_out, lse, delta, dk, dv,
    scale, window, delay, ring,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    KB: tl.constexpr, CQ: tl.constexpr, GB: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr, PREC: tl.constexpr,
    TURN_Q: tl.constexpr, TURN_K: tl.constexpr, ANGLES_BY_ROW: tl.constexpr, SLOTS: tl.constexpr, SEEN: tl.constexpr,
    OWN_K: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A block of KB keys, met by CQ tokens of queries at a time; adds to what `tokens` left in dv, and in dk unless slots store
    other keys than the window's (OWN_K)."""
    R: tl.constexpr = CQ * GB
    blocks: tl.constexpr = (G + GB - 1) // GB
    block = tl.program_id(0) // H
    h = tl.program_id(0) % H
    n = tl.load(table + block * 4)
    j0 = tl.load(table + block * 4 + 1)
    row = tl.load(table + block * 4 + 2)
    length = tl.load(table + block * 4 + 3)
    past = tl.load(seen + n).to(tl.int32) if SEEN else 0
    r = tl.arange(0, R)
    token = r // GB
    j = j0 + tl.arange(0, KB)
    # A block that begins in the ring ends where it likes; rows beyond the sequence's end are another's.
    held = (j < length) & (j >= -ring)
    base = row.to(tl.int64) + (n + 1).to(tl.int64) * ring
    angle = row if ANGLES_BY_ROW else 0
    kcol, kok = columns(K, KP)
    vcol, vok = columns(V, VP)
    key_row = (base + j) * H + h
    k_tile, v_tile = key_row[:, None] * K + kcol[None, :], key_row[:, None] * V + vcol[None, :]
    k_keep, v_keep = held[:, None] & kok[None, :], held[:, None] & vok[None, :]
    near_k = turned(k, key_row * K, held, cos, sin, angle + j, K, KP, TURN_K)
    near_v = tl.load(v + v_tile, mask=v_keep, other=0.0)
    acc_k = tl.zeros([KB, KP], tl.float32)
    acc_v = tl.zeros([KB, VP], tl.float32)
    first = tl.maximum(j0, 0)
    stop = tl.where(window > 0, tl.minimum(j0 + KB - 1 + window, length), first)
    # From `whole` to `ragged` every query meets every key of the block, and no mask is needed; in narrow windows none does.
    whole = stop
    ragged = stop
    if WIDE:
        whole = tl.minimum(first + (tl.maximum(j0 + KB - 1 - first, 0) + CQ - 1) // CQ * CQ, stop)
        ragged = whole + tl.maximum(tl.minimum(j0 + window, length) - whole, 0) // CQ * CQ
    for part in range(blocks):
        head = part * GB + r % GB
        for i0 in range(first, whole, CQ):
            is_row = (i0 + token < stop) & (head < G)
            at_row = (row + i0 + token).to(tl.int64) * (H * G) + h * G + head
            gap = (i0 + token)[None, :] - j[:, None]
            reached = (gap >= 0) & (gap < window) & is_row[None, :]
            acc_k, acc_v = _to_key(
                acc_k, acc_v, near_k, near_v, q, d_out, lse, delta, at_row, is_row, reached, cos, sin, angle + i0 + token,
                scale, K, V, KP, VP, PREC, TURN_Q, True,
            )  # fmt: skip
        if WIDE:
            for i0 in range(whole, ragged, CQ):
                at_row = (row + i0 + token).to(tl.int64) * (H * G) + h * G + head
                acc_k, acc_v = _to_key(
                    acc_k, acc_v, near_k, near_v, q, d_out, lse, delta, at_row, head < G, head < G, cos, sin,
                    angle + i0 + token, scale, K, V, KP, VP, PREC, TURN_Q, False,
                )  # fmt: skip
            for i0 in range(ragged, stop, CQ):
                is_row = (i0 + token < stop) & (head < G)
                at_row = (row + i0 + token).to(tl.int64) * (H * G) + h * G + head
                reached = ((i0 + token)[None, :] - j[:, None] < window) & is_row[None, :]
                acc_k, acc_v = _to_key(
                    acc_k, acc_v, near_k, near_v, q, d_out, lse, delta, at_row, is_row, reached, cos, sin, angle + i0 + token,
                    scale, K, V, KP, VP, PREC, TURN_Q, True,
                )  # fmt: skip
    # What stands in a ring's places that no token has reached is no key.
    real = ((j >= -past) & held)[:, None]
    acc_k, acc_v = tl.where(real, acc_k, 0.0), tl.where(real, acc_v, 0.0)
    if TURN_K:
        acc_k = turned_back(acc_k, held, cos, sin, angle + j, K, KP, KB)
    if SLOTS:
        entered = ((j + delay < length) & (j + delay >= 0))[:, None]
        acc_v += tl.load(dv + v_tile, mask=v_keep & entered, other=0.0).to(tl.float32)
        if not OWN_K:
            acc_k += tl.load(dk + k_tile, mask=k_keep & entered, other=0.0).to(tl.float32)
    tl.store(dk + k_tile, acc_k.to(dk.dtype.element_ty), mask=k_keep)
    tl.store(dv + v_tile, acc_v.to(dv.dtype.element_ty), mask=v_keep)


def gradients(call, states, totals, flags, out, lse, shares, d_out, d_final):
    """Gradients of a `Call`'s q, k, v, g, slot_q, slot_k, bias and first state, None where there is no such input; d_final is
    that of the final state, shares (far_share, near_share) of `queries`, or (None, None)."""
    tiles, plan, device = call.tiles, call.plan, call.q.device
    H, G, K, V, M = (call.constants[name] for name in "HGKVM")
    P, chunks, slots = cdiv(G, tiles.GB), len(plan.chunks), call.settings.slots
    token_rows = len(call.k)
    delta = torch.empty_like(lse)
    dq, dk, dv = torch.empty_like(call.q), torch.empty_like(call.k), torch.empty_like(call.v)
    # Tokens that never enter the slots get no gradient from them, and are written by no program.
    d_slot_q = torch.empty_like(call.q) if call.own_q else None
    d_slot_k = torch.zeros_like(call.k) if call.own_k else None
    dg = torch.zeros_like(call.g)
    single = {"dtype": torch.float32, "device": device}
    # Gradients are often too small for fp16; bf16 keeps their range.
    kind = torch.bfloat16 if call.q.dtype == torch.bfloat16 else torch.float32
    d_states = torch.empty(chunks if slots else 0, H, P, K + V, M, dtype=kind, device=device)
    d_bias = torch.empty(chunks, H * G, **single) if call.bias is not None else None
    enter_dk = d_slot_k if call.own_k else dk
    if P == 1:
        near = (enter_dk, dv, dg if dg.dtype == torch.float32 else torch.empty(call.g.shape, **single))
    else:
        near = tuple(torch.empty(P if slots else 0, token_rows, H, width, **single) for width in (K, V, M))
    for exact in (False, True) if slots else (False,):
        launch(
            nha_bwd_kernel_queries, (chunks * H * P,),
            call.q, call.k, call.v, call.g, call.slot_q, call.slot_k, call.bias, call.cos, call.sin, states, flags, call.seen,
            plan.chunks, out, d_out, lse, *shares, delta, dq, d_slot_q, d_states, d_bias, *near, token_rows,
            call.scale, call.window, call.delay, call.ring,
            **call.constants, BK=tiles.back_BK, OWN_Q=call.own_q, EXACT=exact, WIDE=tiles.wide,
            ALONE=call.window == 0 and M <= tiles.MB, PARTS=shares[0] is not None,
            STAGES=tiles.back_stages, num_warps=tiles.warps, num_stages=1,
            maxnreg=tiles.most_registers,
        )  # fmt: skip
    d_first = None
    if slots:
        ends, d_first = flow_back(d_states, totals, d_final, plan)
        names = ("H", "K", "V", "M", "C", "MB", "KP", "VP", "PREC", "PIECES")
        launch(
            nha_bwd_kernel_tokens, (chunks * H,),
            call.slot_k, call.v, call.g, states, flags, plan.chunks, ends, *near, enter_dk, dv, dg, token_rows,
            call.delay, call.ring,
            **{name: call.constants[name] for name in names}, P=P, num_warps=tiles.walk_warps, num_stages=1,
            maxnreg=tiles.most_registers,
        )  # fmt: skip
    names = ("H", "G", "K", "V", "GB", "KP", "VP", "PREC", "TURN_Q", "TURN_K", "ANGLES_BY_ROW", "SEEN", "SLOTS")
    launch(
        nha_bwd_kernel_window, (len(plan.keys) * H,),
        call.q, call.k, call.v, call.cos, call.sin, call.seen, plan.keys, d_out, lse, delta, dk, dv,
        call.scale, call.window, call.delay, call.ring,
        **{name: call.constants[name] for name in names}, KB=tiles.KB, CQ=tiles.CQ, OWN_K=call.own_k,
        WIDE=tiles.wide, num_warps=tiles.warps, num_stages=tiles.window_stages,
        maxnreg=tiles.most_registers,
    )  # fmt: skip
    if d_bias is not None:
        d_bias = d_bias.sum(0).to(call.bias.dtype) if slots else torch.zeros_like(call.bias)
    return dq, dk, dv, dg, d_slot_q, d_slot_k, d_bias, d_first
