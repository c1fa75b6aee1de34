"""A decode step in one launch: a few new tokens of every sequence, from a state that is written over in place.

Legend: N sequences, T new tokens, H key-value heads, G query heads each, K, V head dimensions, M slots, R ring size.

One program is one sequence and key-value head, since slots are written in place and their readers must come first. It takes TP
tokens and GB query heads together, goes over the slots in blocks and then over the window in blocks, with one running softmax.
Sums are fp32 throughout, by multiplying and adding: a decode step is bound by its bytes.

A block's rows (slots or keys) are J runs of W, and a row is C runs of L columns. As many threads as share L columns, four each,
are a group, and W is the number of groups; rows w, W + w, ... are group w's, in its registers, from the load to the end. Each
group has a softmax of its own until the end, so that threads meet only there. Memory is met in two dimensions, [J * C * W, L],
which Triton lays out like this; the rest is done in six, (TP, GB, J, C, W, L).

What the heads of a sequence share (`seen`, the ring's angles) is written by the last program to arrive, for by then all others
have read it. Arrivals are counted in the upper half of `seen` itself, which is empty between launches.

    state = nha_attention(q, k, v, g, 64, return_state=True)[1]
    with torch.no_grad():
        out, state = nha_attention(q1, k1, v1, g1, 64, state=state, return_state=True, overwrite_state=True)
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
import triton
import triton.language as tl

from kernels.nha.triton.common import log2e, written

# More new tokens than this are a prompt: the parallel form takes them.
MOST_TOKENS = 8
# A ring is brought to its full size before its time if that is no longer than this: it need not end up as long as its window.
MOST_GROWN = 4096
# Programs that find a multiprocessor each on a large GPU: they take more warps.
FEW = 128


@triton.jit
def _tile(D: tl.constexpr, J: tl.constexpr, C: tl.constexpr, W: tl.constexpr, L: tl.constexpr):
    """Of a tile [J * C * W, L]: row numbers in the block [., 1], column numbers [., L] of D columns, and which exist.

    Both halves of the columns are padded alike, for the rotary turn.
    """
    r = tl.arange(0, J * C * W)[:, None]
    i = tl.arange(0, L)[None, :]
    # Four columns a thread whatever the dtype, so that slots, keys and queries lie alike and are never exchanged: runs of
    # four in reverse, since a thread would get eight of a longer run in half precision.
    i = (r // W) % C * L + (L - 4 - i // 4 * 4 + i % 4)
    P: tl.constexpr = C * L
    if D == P:
        col = i
        ok = i < D
    else:
        half: tl.constexpr = (D + 1) // 2
        col = (i // (P // 2)) * half + i % (P // 2)
        ok = (i % (P // 2) < half) & (col < D)
    return r // (C * W) * W + r % W, col, ok


@triton.jit
def _turned(x, rows, keep, col, cos, sin, angles, K: tl.constexpr, TURN: tl.constexpr, BACK: tl.constexpr):
    """Columns `col` of x at element offsets `rows`, in fp32; turned by the angles at rows `angles` if TURN, undone if BACK."""
    y = tl.load(x + rows + col, mask=keep, other=0.0).to(tl.float32)
    if TURN:
        half: tl.constexpr = K // 2
        first = col < half
        other = tl.load(x + rows + tl.where(first, col + half, col - half), mask=keep, other=0.0).to(tl.float32)
        at = angles * half + tl.where(first, col, col - half)
        c = tl.load(cos + at, mask=keep, other=0.0).to(tl.float32)
        s = tl.load(sin + at, mask=keep, other=0.0).to(tl.float32)
        if BACK:
            size = c * c + s * s
            y = (y * c + tl.where(first, other, -other) * s) / tl.where(size > 0, size, 1.0)
        else:
            y = y * c + tl.where(first, -other, other) * s
    return y


@triton.jit
def _product(query, rows):
    """[1, GB, J, W]: query [1, GB, 1, C, W, L] times rows [1, 1, J, C, W, L]."""
    return tl.sum(tl.sum(query * rows, 3), 4)


@triton.jit
def _weights(z, top, mass):
    """The running softmax (top, mass [TP, GB, W]) after z [TP, GB, J, W]: (weights like z, shrink, top, mass)."""
    higher = tl.maximum(top, tl.max(z, 2))
    finite = tl.where(higher == float("-inf"), 0.0, higher)
    p = tl.exp2(z - finite[:, :, None, :])
    shrink = tl.exp2(top - finite)
    return p, shrink, higher, mass * shrink + tl.sum(p, 2)


@triton.jit
def _weighed(p, rows):
    """[TP, GB, C, W, L]: the sum of rows [1, 1, J, C, W, L] with weights p [TP, GB, J, W]."""
    return tl.sum(p[:, :, :, None, :, None] * rows, 2)


@triton.jit
def _attend(
    queries, keys, values, ok, top, mass, acc, own_top, own_mass,
    TP: tl.constexpr, J: tl.constexpr, W: tl.constexpr, CK: tl.constexpr, LK: tl.constexpr, CV: tl.constexpr, LV: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """The running softmax after tiles of keys and values, and the window's own; ok [TP, 1, J, W]: which are visible."""
    token = tl.arange(0, TP)[:, None, None, None]
    keys = tl.reshape(keys.to(tl.float32), [1, 1, J, CK, W, LK])
    z = _product(queries[0], keys)
    for i in tl.static_range(1, TP):
        z = tl.where(token == i, _product(queries[i], keys), z)
    z = tl.where(ok, z, float("-inf"))
    p, shrink, top, mass = _weights(z, top, mass)
    values = tl.reshape(values.to(tl.float32), [1, 1, J, CV, W, LV])
    acc = acc * shrink[:, :, None, :, None] + _weighed(p, values)
    if PARTS:
        _, _, own_top, own_mass = _weights(z, own_top, own_mass)
    return top, mass, acc, own_top, own_mass


@triton.jit
def _sees(cell, newest, size, ring, reach):
    """Whether the tokens at these cells of the ring [1, 1, J, W] are less than `reach` [TP, 1, 1, 1] before the newest."""
    back = newest - cell
    return (cell < ring) & (tl.where(back < 0, back + size, back) < reach)


@triton.jit
def _whole(top, mass):
    """The W softmaxes as one: (top [TP, GB], mass [TP, GB], share [TP, GB, W] of each)."""
    most = tl.max(top, 2)
    share = tl.exp2(top - tl.where(most == float("-inf"), 0.0, most)[:, :, None])
    return most, tl.sum(mass * share, 2), share


@triton.jit(do_not_specialize=["window", "delay", "ring"])
def nha_fwd_kernel_decode(
    q, k, v, g, slot_q, slot_k, bias, cos, sin,
    memory_k, memory_v, ring_k, ring_v, ring_g, ring_raw, ring_cos, ring_sin, seen,
    out, lse_slots, lse_window,
    scale, window, delay, ring,
    T: tl.constexpr, H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    TP: tl.constexpr, GB: tl.constexpr, W: tl.constexpr, JM: tl.constexpr, JR: tl.constexpr, JT: tl.constexpr,
    CK: tl.constexpr, LK: tl.constexpr, CV: tl.constexpr, LV: tl.constexpr, MP: tl.constexpr, STAGES: tl.constexpr,
    COPIES: tl.constexpr, TURN: tl.constexpr, ANGLES_BY_ROW: tl.constexpr, RAW: tl.constexpr, BIAS: tl.constexpr,
    SINK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """q, slot_q, out [N, T, H, G, *]; k, slot_k, v, g [N, T, H, *]; memory_* [N, H, M, *]; ring_* [N, H, R, *], its angles
    [N, R, K/2]; lse_* [N, T, H, G], if PARTS. Blocks are of JM * W slots and JR * W keys; JT * W rows hold the T new tokens."""
    pair = tl.program_id(0).to(tl.int64)
    n, h = pair // H, pair % H
    slot, slot_kcol, slot_kok = _tile(K, JM, CK, W, LK)
    slot_v, slot_vcol, slot_vok = _tile(V, JM, CV, W, LV)
    cell, cell_kcol, cell_kok = _tile(K, JR, CK, W, LK)
    cell_v, cell_vcol, cell_vok = _tile(V, JR, CV, W, LV)
    new, new_kcol, new_kok = _tile(K, JT, CK, W, LK)
    new_v, new_vcol, new_vok = _tile(V, JT, CV, W, LV)
    mate, qcol, qok = _tile(K, GB, CK, W, LK)
    mate = mate // W
    # One row, which every group loads for itself.
    _, kcol, kok = _tile(K, 1, CK, W, LK)
    _, vcol, vok = _tile(V, 1, CV, W, LV)
    _, out_col, out_ok = _tile(V, 1, CV, 1, LV)
    token = tl.arange(0, TP)[:, None, None, None]
    # Triton's interpreter masks a block by another alone, so that a token's number is a block of one.
    none = tl.zeros([1, 1], tl.int32)
    ONE_BLOCK: tl.constexpr = M <= JM * W

    if ONE_BLOCK:
        # The slots stay in registers; and all is asked for before anything that waits for `seen`.
        far_k = tl.load(memory_k + (pair * M + slot) * K + slot_kcol, mask=(slot < M) & slot_kok, other=0.0)
        far_k = tl.reshape(far_k.to(tl.float32), [1, 1, JM, CK, W, LK])
        far_v = tl.load(memory_v + (pair * M + slot_v) * V + slot_vcol, mask=(slot_v < M) & slot_vok, other=0.0)
        far_v = tl.reshape(far_v.to(tl.float32), [1, 1, JM, CV, W, LV])
        old_k = tl.load(ring_k + (pair * ring + cell) * K + cell_kcol, mask=(cell < ring) & cell_kok, other=0.0)
        old_v = tl.load(ring_v + (pair * ring + cell_v) * V + cell_vcol, mask=(cell_v < ring) & cell_vok, other=0.0)
    past = (tl.load(seen + n) & 0xFFFFFFFF).to(tl.int32)
    size = tl.maximum(ring, 1)
    newest = (past + size - 1) % size
    scale2 = scale * log2e()
    angle = n * T if ANGLES_BY_ROW else 0

    new_row = (n * T + new) * H + h
    fresh_k = _turned(k, new_row * K, (new < T) & new_kok, new_kcol, cos, sin, angle + new, K, TURN, False)
    fresh_k = fresh_k.to(ring_k.dtype.element_ty)
    fresh_v = tl.load(v + ((n * T + new_v) * H + h) * V + new_vcol, mask=(new_v < T) & new_vok, other=0.0)

    for first in range(0, T, TP):
        for part in range(0, (G + GB - 1) // GB):
            # The first part of the heads writes the slots for those after it.
            is_first = part + none == 0
            head = part * GB + mate
            t = first + tl.arange(0, TP)[:, None]
            to_head = part * GB + tl.arange(0, GB)[None, :]
            to = ((n * T + t) * H + h) * G + to_head
            is_row = (t < T) & (to_head < G)

            # The tokens that enter the slots: out of the ring, or (a delay under T) out of the new ones.
            met, in_k, in_v = (), (), ()
            for i in tl.static_range(TP):
                step = first + i + none
                row = (n * T + step) * H + h
                x = tl.load(slot_q + (row * G + head) * K + qcol, mask=(head < G) & (step < T) & qok, other=0.0)
                met += (tl.reshape(x.to(tl.float32) * scale2, [1, GB, 1, CK, W, LK]),)
                enters = (past + step >= delay) & (step < T) & is_first
                held, came = enters & (step < delay), enters & (step >= delay)
                place = (past + step - delay) % size
                at = pair * ring + place
                row -= delay * H
                if RAW:
                    x = tl.load(ring_raw + at * K + kcol, mask=held & kok, other=0.0).to(tl.float32)
                else:
                    x = _turned(ring_k, at * K, held & kok, kcol, ring_cos, ring_sin, n * ring + place, K, TURN, True)
                x += tl.load(slot_k + row * K + kcol, mask=came & kok, other=0.0).to(tl.float32)
                in_k += (tl.reshape(x, [1, 1, 1, CK, W, LK]),)
                x = tl.load(ring_v + at * V + vcol, mask=held & vok, other=0.0).to(tl.float32)
                x += tl.load(v + row * V + vcol, mask=came & vok, other=0.0).to(tl.float32)
                in_v += (tl.reshape(x, [1, 1, 1, CV, W, LV]),)

            top = tl.full([TP, GB, W], float("-inf"), tl.float32)
            mass = tl.zeros([TP, GB, W], tl.float32)
            acc = tl.zeros([TP, GB, CV, W, LV], tl.float32)
            for m0 in tl.range(0, M, JM * W, num_stages=STAGES):
                far_at = (pair * M + m0 + slot) * K + slot_kcol
                value_at = (pair * M + m0 + slot_v) * V + slot_vcol
                far_ok = (m0 + slot < M) & slot_kok
                value_ok = (m0 + slot_v < M) & slot_vok
                if not ONE_BLOCK:
                    block = tl.load(memory_k + far_at, mask=far_ok, other=0.0)
                    far_k = tl.reshape(block.to(tl.float32), [1, 1, JM, CK, W, LK])
                    block_v = tl.load(memory_v + value_at, mask=value_ok, other=0.0)
                    far_v = tl.reshape(block_v.to(tl.float32), [1, 1, JM, CV, W, LV])
                m = m0 + tl.arange(0, JM * W)[None, :]
                decays, writes = (), ()
                for i in tl.static_range(TP):
                    gate_step = first + i + none
                    takes = (m < M) & (past + gate_step >= delay) & (gate_step < T) & is_first
                    gate_at = (pair * ring + (past + gate_step - delay) % size) * M + m
                    gate = tl.load(ring_g + gate_at, mask=takes & (gate_step < delay), other=0.0).to(tl.float32)
                    gate_at = ((n * T + gate_step - delay) * H + h) * M + m
                    gate += tl.load(g + gate_at, mask=takes & (gate_step >= delay), other=0.0).to(tl.float32)
                    # exp of either is 0, but -inf would turn a product with 0 into NaN.
                    gate = tl.maximum(gate, -1e30)
                    decays += (tl.reshape(tl.exp2(gate * log2e()), [1, 1, JM, 1, W, 1]),)
                    writes += (tl.reshape(written(gate, 0), [1, 1, JM, 1, W, 1]),)
                z = tl.zeros([TP, GB, JM, W], tl.float32)
                for i in tl.static_range(TP):
                    far_k = decays[i] * far_k + writes[i] * in_k[i]
                    z = tl.where(token == i, _product(met[i], far_k), z)
                if BIAS:
                    bias_at = part * GB + tl.arange(0, GB)[None, :, None, None]
                    z += tl.load(bias + h * G + bias_at, mask=bias_at < G, other=0.0).to(tl.float32) * log2e()
                shown = tl.reshape(m, [1, 1, JM, W]) < M
                if not SINK:
                    shown = shown & (past + first + token >= delay)
                p, shrink, top, mass = _weights(tl.where(shown, z, float("-inf")), top, mass)
                acc *= shrink[:, :, None, :, None]
                for i in tl.static_range(TP):
                    far_v = decays[i] * far_v + writes[i] * in_v[i]
                    acc = tl.where(token[:, :, :, :, None] == i, acc + _weighed(p, far_v), acc)
                if COPIES:
                    # Several threads hold the same element, and all must have read it.
                    tl.debug_barrier()
                tl.store(memory_k + far_at, tl.reshape(far_k, [JM * CK * W, LK]), mask=far_ok)
                tl.store(memory_v + value_at, tl.reshape(far_v, [JM * CV * W, LV]), mask=value_ok)
            if PARTS:
                most, total, share = _whole(top, mass)
                tl.store(lse_slots + to, (most + tl.log2(total)) / log2e(), mask=is_row)

            # The window: the new tokens, then the ring as it lies.
            near = ()
            for i in tl.static_range(TP):
                step = first + i + none
                rows = (((n * T + step) * H + h) * G + head) * K
                x = _turned(q, rows, (head < G) & (step < T) & qok, qcol, cos, sin, angle + step, K, TURN, False)
                near += (tl.reshape(x * scale2, [1, GB, 1, CK, W, LK]),)
            own_top = tl.full([TP, GB, W], float("-inf"), tl.float32)
            own_mass = tl.zeros([TP, GB, W], tl.float32)
            gap = first + token - tl.reshape(tl.arange(0, JT * W), [1, 1, JT, W])
            top, mass, acc, own_top, own_mass = _attend(
                near, fresh_k, fresh_v, (gap >= 0) & (gap < window), top, mass, acc, own_top, own_mass,
                TP, JT, W, CK, LK, CV, LV, PARTS,
            )  # fmt: skip
            # How far back from the newest token in the ring each query sees.
            reach = tl.minimum(window - 1 - first - token, past)
            cells = tl.reshape(tl.arange(0, JR * W), [1, 1, JR, W])
            if ONE_BLOCK:
                top, mass, acc, own_top, own_mass = _attend(
                    near, old_k, old_v, _sees(cells, newest, size, ring, reach), top, mass, acc, own_top, own_mass,
                    TP, JR, W, CK, LK, CV, LV, PARTS,
                )  # fmt: skip
            for p0 in tl.range(JR * W if ONE_BLOCK else 0, tl.where(window > 0, ring, 0), JR * W, num_stages=STAGES):
                next_k = tl.load(
                    ring_k + (pair * ring + p0 + cell) * K + cell_kcol, mask=(p0 + cell < ring) & cell_kok, other=0.0
                )
                next_v = tl.load(
                    ring_v + (pair * ring + p0 + cell_v) * V + cell_vcol, mask=(p0 + cell_v < ring) & cell_vok, other=0.0
                )
                top, mass, acc, own_top, own_mass = _attend(
                    near, next_k, next_v, _sees(p0 + cells, newest, size, ring, reach), top, mass, acc, own_top, own_mass,
                    TP, JR, W, CK, LK, CV, LV, PARTS,
                )  # fmt: skip
            if PARTS:
                most, total, share = _whole(own_top, own_mass)
                tl.store(lse_window + to, (most + tl.log2(total)) / log2e(), mask=is_row)

            most, total, share = _whole(top, mass)
            # Where nothing is attended to (no window, nothing in the slots yet) the output is zero.
            share = share * (1.0 / tl.where(total > 0, total, 1.0))[:, :, None]
            y = tl.sum(acc * share[:, :, None, :, None], 3)
            out_at = to[:, :, None, None] * V + out_col[None, None, :, :]
            tl.store(out + out_at, y.to(out.dtype.element_ty), mask=is_row[:, :, None, None] & out_ok[None, None, :, :])
            # The next pass reads the slots that this one wrote.
            tl.debug_barrier()

    # All has been read: the new tokens take their places, the last R of them if there are more.
    stays = (new < T) & (new + ring >= T)
    tl.store(ring_k + (pair * ring + (past + new) % size) * K + new_kcol, fresh_k, mask=stays & new_kok)
    stays_v = (new_v < T) & (new_v + ring >= T)
    fresh_v = fresh_v.to(ring_v.dtype.element_ty)
    tl.store(ring_v + (pair * ring + (past + new_v) % size) * V + new_vcol, fresh_v, mask=stays_v & new_vok)
    if RAW:
        raw_k = tl.load(slot_k + new_row * K + new_kcol, mask=stays & new_kok, other=0.0).to(ring_raw.dtype.element_ty)
        tl.store(ring_raw + (pair * ring + (past + new) % size) * K + new_kcol, raw_k, mask=stays & new_kok)
    u = tl.arange(0, JT * W)[:, None]
    place = (past + u) % size
    stays = (u < T) & (u + ring >= T)
    m = tl.arange(0, MP)[None, :]
    fresh_g = tl.load(g + ((n * T + u) * H + h) * M + m, mask=stays & (m < M), other=0.0).to(ring_g.dtype.element_ty)
    tl.store(ring_g + (pair * ring + place) * M + m, fresh_g, mask=stays & (m < M))
    arrived = tl.atomic_add(seen + n, 1 << 32) >> 32
    if arrived == H - 1:
        if TURN:
            half: tl.constexpr = K // 2
            f = tl.arange(0, CK * LK // 2)[None, :]
            c = tl.load(cos + (angle + u) * half + f, mask=stays & (f < half), other=0.0).to(ring_cos.dtype.element_ty)
            s = tl.load(sin + (angle + u) * half + f, mask=stays & (f < half), other=0.0).to(ring_sin.dtype.element_ty)
            tl.store(ring_cos + (n * ring + place) * half + f, c, mask=stays & (f < half))
            tl.store(ring_sin + (n * ring + place) * half + f, s, mask=stays & (f < half))
        tl.store(seen + n, (past + T).to(tl.int64))


@lru_cache
def choose_tiles(programs: int, T: int, G: int, K: int, V: int, M: int) -> dict:
    """Compile-time sizes and launch options for a shape, so that registers allow four programs a multiprocessor, or, where
    there are few programs, so that one has all its slots in flight at once. Read off cross-compiled kernels, for sm_90."""
    power = triton.next_power_of_2
    KP, VP = (2 * max(8, power(-(-n // 2))) for n in (K, V))
    LK, LV = min(KP, 128), min(VP, 128)
    CK, CV = KP // LK, VP // LV
    GB = min(power(G), 8)
    TP = min(power(T), 4, 8 // GB)
    few = programs <= FEW
    warps = 8 if few else 4
    W = 128 * warps // max(LK, LV)
    wide = max(CK, CV)
    light = TP == 1 and GB * wide <= 4 and KP == VP
    JR = (8 if few and light else 4) // wide
    JM = min(JR, power(-(-M // W)))
    registers = None
    if not few and TP == 1 and G <= 8 and KP == VP:
        registers = 128 if light else 168
    return {
        "TP": TP, "GB": GB, "W": W, "JM": JM, "JR": JR, "JT": max(1, power(T) // W), "CK": CK, "LK": LK, "CV": CV, "LV": LV,
        "MP": power(M), "STAGES": 2, "COPIES": JM * W * min(KP, VP) < 128 * warps, "num_warps": warps, "maxnreg": registers,
    }  # fmt: skip


def _decode(
    q, k, v, g, slot_q, slot_k, bias, cos, sin, memory_k, memory_v, ring_k, ring_v, ring_g, ring_raw, ring_cos, ring_sin, seen,
    out, lse_slots, lse_window, window, delay, scale, sink,
):  # fmt: skip
    """Writes the outputs, and moves the state's tensors on by the new tokens, all contiguous."""
    N, T, HQ, K = q.shape
    H, V, M = k.shape[2], v.shape[3], g.shape[3]
    nha_fwd_kernel_decode[(N * H,)](
        q, k, v, g, q if slot_q is None else slot_q, k if slot_k is None else slot_k, bias, cos, sin,
        memory_k, memory_v, ring_k, ring_v, ring_g, ring_raw, ring_cos, ring_sin, seen, out, lse_slots, lse_window,
        scale, window, delay, ring_k.shape[2],
        T=T, H=H, G=HQ // H, K=K, V=V, M=M, **choose_tiles(N * H, T, HQ // H, K, V, M),
        TURN=cos is not None, ANGLES_BY_ROW=cos is not None and cos.dim() == 3, RAW=ring_raw is not None,
        BIAS=bias is not None, SINK=sink, PARTS=lse_slots is not None,
    )  # fmt: skip


# Defined by hand: torch.library.custom_op adds over 100 us of Python to a call, this 5.
_library = torch.library.Library("nha", "FRAGMENT")
_library.define(
    "decode(Tensor q, Tensor k, Tensor v, Tensor g, Tensor? slot_q, Tensor? slot_k, Tensor? bias, Tensor? cos, Tensor? sin, "
    "Tensor(a!) memory_k, Tensor(b!) memory_v, Tensor(c!) ring_k, Tensor(d!) ring_v, Tensor(e!) ring_g, Tensor(f!)? ring_raw, "
    "Tensor(g!)? ring_cos, Tensor(h!)? ring_sin, Tensor(i!) seen, Tensor(j!) out, Tensor(k!)? lse_slots, "
    "Tensor(l!)? lse_window, SymInt window, SymInt delay, float scale, bool sink) -> ()"
)
_library.impl("decode", _decode, "CompositeExplicitAutograd")
torch.library.register_fake("nha::decode", lambda *_: None, lib=_library)


def takes(time: int, settings: dict) -> bool:
    """Whether `decode_nha` takes a call: a few tokens, not packed, from a state made with the same options."""
    state = settings["state"]
    if time > MOST_TOKENS or state is None or settings["window"] is None or settings["cu_seqlens"] is not None:
        return False
    if (state.raw_k is None) != (settings["slot_k"] is None) or (state.cos is None) != (settings["rotary"] is None):
        return False
    full = max(settings["window"], settings["delay"])
    return full <= max(MOST_GROWN, state.ring_size)


def decode_nha(
    q, k, v, g, *,
    window, delay, rotary, slot_q, slot_k, slot_bias, scale, empty_slots, cu_seqlens, state, overwrite_state, with_lse,
):  # fmt: skip
    """The operator for a call that is taken: (out [B, T, HQ, V], NHAState, (lse_slots, lse_window) or None)."""
    state = state.grown(max(window, delay))
    held = {name: x.contiguous() for name, x in state.tensors().items()}
    # What a backward pass may still come to is never written over.
    if not overwrite_state or any(x.requires_grad for x in held.values()):
        held = {name: x.clone() for name, x in held.items()}
    cos, sin = (None, None) if rotary is None else rotary
    given = (x if x is None else x.contiguous() for x in (q, k, v, g, slot_q, slot_k, slot_bias, cos, sin))
    out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype, device=q.device)
    lse = [torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) if with_lse else None for _ in range(2)]
    torch.ops.nha.decode.default(
        *given, held["slot_k"], held["slot_v"], held["k"], held["v"], held["g"], held.get("raw_k"), held.get("cos"),
        held.get("sin"), held["seen"], out, *lse, window, delay, scale, empty_slots == "sink",
    )  # fmt: skip
    return out, replace(state, **held), tuple(lse) if with_lse else None
