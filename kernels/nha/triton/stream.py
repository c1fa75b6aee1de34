"""The forward as a stream: a program carries the slots through a run of chunks and makes their outputs as it goes.

Legend: as in `forward`; NB blocks of BK keys reach the window of a chunk.

Against `forward` no chunk's state goes through memory, the next chunk's tiles are fetched while this one is worked on (bulk
copies by tensor descriptors), and where the window is small all logits of a row, slots' and window's, are at hand before the
first value is weighed: one softmax over both without any rescaling. The state stays in registers, [K, M] and [V, M] in fp32,
which is what limits the shapes: see `streams`.

A wider window's tiles do not fit into shared memory; `forward` takes it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.nha.triton.common import exact_sum, log2e, rows_of, segment_at, turned, written
from kernels.nha.triton.counts import cdiv
from kernels.nha.triton.launch import launch

# Blocks of keys that the logits of a row may take, in registers.
MOST_BLOCKS = 4
# Bytes of Hopper's shared memory that one program may take.
SHARED = 227 * 1024


@triton.jit
def _lse(level, mass):
    """A log-sum-exp in natural units from a sum of powers of two and their level; -inf where the sum is 0."""
    return tl.where(mass > 0, (level + tl.log2(mass)) / log2e(), float("-inf"))


@triton.jit
def _turned_rows(x, cos, sin, C: tl.constexpr, GB: tl.constexpr, K: tl.constexpr):
    """Rows x [C * GB, K] turned by the angles [C, K / 2] of their tokens."""
    x1, x2 = tl.split(tl.permute(tl.reshape(x, [C * GB, 2, K // 2]), (0, 2, 1)))
    x1, x2 = x1.to(tl.float32), x2.to(tl.float32)
    cos, sin = rows_of(cos, C, GB, K // 2), rows_of(sin, C, GB, K // 2)
    both = tl.join(x1 * cos - x2 * sin, x2 * cos + x1 * sin)
    return tl.reshape(tl.permute(both, (0, 2, 1)), [C * GB, K]).to(x.dtype)


@triton.jit(do_not_specialize=["delay", "ring", "zero"])
def nha_fwd_kernel_stream(
    q, slot_q, k, v, in_k, in_v, g, out_desc, out, bias, starts, totals, seen, table,
    lse, lse_slots, lse_window, cos, sin,
    scale, delay, ring, zero,
    H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    C: tl.constexpr, GB: tl.constexpr, BK: tl.constexpr, WD: tl.constexpr, PIECES: tl.constexpr,
    OWN_Q: tl.constexpr, TURN: tl.constexpr, ANGLES_BY_ROW: tl.constexpr, BIAS: tl.constexpr,
    SINK: tl.constexpr, SEEN: tl.constexpr, PARTS: tl.constexpr, COPIES: tl.constexpr, WHOLE: tl.constexpr, NB: tl.constexpr,
    WINDOW: tl.constexpr, SHARE_K: tl.constexpr, SHARE_V: tl.constexpr,
):  # fmt: skip
    """Descriptors: q (if OWN_Q), slot_q [rows, HQ, K] (or [rows, HQ * K] if GB is 1), k, in_k [rows, H * K], v, in_v
    [rows, H * V] with boxes of BK and C rows, g [rows, H * M], out_desc as q (if COPIES and WHOLE); pointers:
    out [rows, HQ, V], starts [segments, H, D, M], totals [chunks, H, M], lse [rows, HQ] in units of log 2.

    SHARE_K, SHARE_V: the first block of keys, of values is what enters the slots. COPIES: results leave by bulk copies too.
    WHOLE: no chunk reaches over its sequence's end, and no block of heads over its group. `zero` is 0: masks that depend on it
    are made where they are used, rather than kept in registers throughout.
    """
    R: tl.constexpr = C * GB
    blocks: tl.constexpr = (G + GB - 1) // GB
    D: tl.constexpr = K + V
    segment = tl.program_id(0) // (H * blocks)
    head = tl.program_id(0) % (H * blocks)
    h, part = head // blocks, head % blocks
    n, step, row, length, chunk, count, number = segment_at(table, segment)
    past = tl.load(seen + n).to(tl.int32) if SEEN else 0
    i, jj, slot, r = tl.arange(0, C), tl.arange(0, BK), tl.arange(0, M), tl.arange(0, R)
    query_head = part * GB + r % GB
    base = row + (n + 1) * ring
    lowest = -tl.minimum(ring, past)
    angle = row if ANGLES_BY_ROW else 0
    scale2 = scale * log2e()
    kcol, vcol = tl.arange(0, K), tl.arange(0, V)
    at = (number * H + h) * D * M + slot[None, :]
    memory_k = tl.load(starts + at + kcol[:, None] * M)
    memory_v = tl.load(starts + at + (K + vcol)[:, None] * M)
    for c in tl.range(0, count, num_stages=2):
        now = step + c * C
        token = r // GB + c * zero
        at_chunk = (chunk + c) * H + h
        if GB == 1:
            met = slot_q.load([row + now, (h * G + part) * K])
        else:
            met = slot_q.load([row + now, h * G + part * GB, 0]).reshape(R, K)
        enter_k = in_k.load([base + now - delay, h * K])
        enter_v = in_v.load([base + now - delay, h * V])
        total = tl.load(totals + at_chunk * M + slot)
        kept = tl.exp2(total)[None, :]
        alive = (now + i < length) & (now + i - delay >= -ring)
        here = tl.where(alive[:, None], tl.maximum(g.load([base + now - delay, h * M]).to(tl.float32), -1e30), 0.0)
        left = exact_sum((i[None, :] > (i + c * zero)[:, None]).to(tl.float32), here, PIECES) * log2e()
        W = (tl.exp2(left) * written(here, PIECES)).to(WD)
        memory_k *= kept
        memory_v *= kept
        start_k, start_v = memory_k.to(WD), memory_v.to(WD)
        raw = tl.dot(met, tl.trans(enter_k))
        z = tl.dot(met, start_k)
        z = tl.dot(tl.where(token[:, None] >= i[None, :], raw, 0.0).to(WD), W, z)
        near_q = met
        if OWN_Q:
            if GB == 1:
                near_q = q.load([row + now, (h * G + part) * K])
            else:
                near_q = q.load([row + now, h * G + part * GB, 0]).reshape(R, K)
        if TURN:
            at_angle = (angle + now + i)[:, None] * (K // 2) + tl.arange(0, K // 2)[None, :]
            seen_row = (now + i < length)[:, None]
            co = tl.load(cos + at_angle, mask=seen_row, other=0.0).to(tl.float32)
            si = tl.load(sin + at_angle, mask=seen_row, other=0.0).to(tl.float32)
            near_q = _turned_rows(near_q, co, si, C, GB, K)
        is_row = (now + token < length) & (query_head < G)
        at_row = (row + now).to(tl.int64) * (H * G) + h * G + part * GB
        at_lse = at_row + token * (H * G) + r % GB
        best = tl.full([R], float("-inf"), tl.float32)
        logits, values = (), ()
        for b in tl.static_range(NB):
            first = C - (NB - b) * BK
            if SHARE_V and b == 0:
                near_v = enter_v
            else:
                near_v = v.load([base + now + first, h * V])
            if SHARE_K and b == 0:
                zb = raw
            else:
                zb = tl.dot(near_q, tl.trans(k.load([base + now + first, h * K])))
            # Only blocks at the window's ends need a mask by row, and only those before the chunk one at a sequence's start.
            if first < C - WINDOW:
                low = tl.maximum(token - (first + WINDOW - 1), lowest - now - first)
                zb = tl.where(jj[None, :] >= low[:, None], zb, float("-inf"))
            elif first < 0:
                zb = tl.where(jj[None, :] >= lowest - now - first, zb, float("-inf"))
            if first + BK > 1:
                zb = tl.where(jj[None, :] <= (token - first)[:, None], zb, float("-inf"))
            best = tl.maximum(best, tl.max(zb, 1))
            logits = logits + (zb,)  # noqa: RUF005
            values = values + (near_v,)  # noqa: RUF005
        if GB == 1:
            F = tl.exp2(-left)
        else:
            F = tl.exp2(exact_sum((i[None, :] > token[:, None]).to(tl.float32), here, PIECES) * -log2e())
        z *= F
        if BIAS:
            at_head = h * G + part * GB + r % GB
            z += (tl.load(bias + at_head, mask=query_head < G, other=0.0).to(tl.float32) / scale)[:, None]
        top = tl.max(z, 1)
        if not SINK:
            shown = past + now + token >= delay
            top = tl.where(shown, top, float("-inf"))
        if PARTS:
            # Each part by its own maximum, for its sum may be nothing beside the other's.
            own = tl.where(top == float("-inf"), float("inf"), top) * scale2
            tl.store(lse_slots + at_lse, _lse(top * scale2, tl.sum(tl.exp2(z * scale2 - own[:, None]), 1)), mask=is_row)
            own = tl.where(best == float("-inf"), 0.0, best) * scale2
            own_mass = tl.zeros([R], tl.float32)
            for b in tl.static_range(NB):
                own_mass += tl.sum(tl.exp2(logits[b] * scale2 - own[:, None]), 1)
            tl.store(lse_window + at_lse, _lse(own, own_mass), mask=is_row)
        top = tl.maximum(top, best)
        # A row that attends to nothing yet (no window, empty slots) gives zeros.
        level = tl.where(top == float("-inf"), 0.0, top) * scale2
        slots_level = level
        if not SINK:
            slots_level = tl.where(shown, level, float("inf"))
        p = tl.exp2(z * scale2 - slots_level[:, None])
        mass = tl.sum(p, 1)
        p = (p * F).to(WD)
        weights = ()
        for b in tl.static_range(NB):
            pb = tl.exp2(logits[b] * scale2 - level[:, None])
            mass += tl.sum(pb, 1)
            weights = weights + (pb.to(WD),)  # noqa: RUF005
        acc = tl.dot(p, tl.trans(start_v))
        near = tl.where(token[:, None] >= i[None, :], tl.dot(p, tl.trans(W)), 0.0).to(WD)
        if not SHARE_V:
            acc = tl.dot(near, enter_v, acc)
        for b in tl.static_range(NB):
            if SHARE_V and b == 0:
                acc = tl.dot(weights[0] + near, enter_v, acc)
            else:
                acc = tl.dot(weights[b], values[b], acc)
        memory_k = tl.dot(tl.trans(enter_k), W, memory_k)
        memory_v = tl.dot(tl.trans(enter_v), W, memory_v)
        tl.store(lse + at_lse, tl.where(mass > 0, level + tl.log2(mass), float("-inf")), mask=is_row)
        acc *= (1.0 / tl.where(mass > 0, mass, 1.0))[:, None]
        if COPIES and WHOLE:
            if GB == 1:
                out_desc.store([row + now, (h * G + part) * V], acc.to(WD))
            else:
                out_desc.store([row + now, h * G + part * GB, 0], acc.to(WD).reshape(C, GB, V))
        else:
            at_out = (token * (H * G) + r % GB)[:, None] * V + vcol[None, :]
            tl.store(out + at_row * V + at_out, acc.to(WD), mask=is_row[:, None])


@triton.jit(do_not_specialize=["rows", "time"])
def nha_fwd_kernel_turn(x, cos, sin, y, rows, time, N: tl.constexpr, K: tl.constexpr, BR: tl.constexpr):
    """y [rows, N, K]: row r of x turned by the angles at r % time; cos and sin [time, K/2]."""
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    mask = r < rows * N
    at = r.to(tl.int64) * K
    tile = turned(x, at, mask, cos, sin, r // N % time, K, K, True)
    tl.store(y + at[:, None] + tl.arange(0, K)[None, :], tile, mask=mask[:, None])


def _turned(call, x: torch.Tensor) -> torch.Tensor:
    """x [rows, heads, K] of a `Call`, turned once, since each tile of keys is met by several chunks."""
    rows, heads, K = x.shape
    y, BR = torch.empty_like(x), 64
    time = rows if call.settings.angles_by_row else call.settings.time
    launch(
        nha_fwd_kernel_turn, (cdiv(rows * heads, BR),), x, call.cos, call.sin, y, rows, time,
        N=heads, K=K, BR=BR, num_warps=4,
    )  # fmt: skip
    return y


def _window(call) -> tuple[int, int, bool]:
    """(keys of a block, blocks that reach the window of a chunk, whether the first holds what enters the slots)."""
    C, window = call.tiles.C, call.window
    BK = max(C, 32)
    NB = cdiv(C + window - 1, BK) if window else 0
    return BK, NB, NB > 0 and BK == C and window % C == 0 and call.delay == window


def shared_memory(call, copies: bool) -> int:
    """Bytes of a multiprocessor's shared memory that one program takes: counted, and no less than what Triton 3.6 reports."""
    BK, NB, share = _window(call)
    C, GB, K, M = call.tiles.C, call.tiles.GB, call.q.shape[-1], call.g.shape[-1]
    turns, size = call.cos is not None, call.q.element_size()
    queries = C * GB * K * size
    # Two buffers each for the tiles of tokens; for queries only where they are an operand as they lie.
    tiles = 2 * (2 + 2 * NB - share - (share and not (call.own_q or call.own_k or turns))) * BK * K * size
    rows = queries * (2 if GB == 1 else 1) * (2 if call.own_q else 1)
    gates = C * M * (call.g.element_size() + size * (1 + (call.constants["PIECES"] if GB > 1 else 0)))
    angles = C * K * call.cos.element_size() if turns else 0
    slots = 2 * K * M * size + gates + (queries if copies else 0)
    # At another time, of a group's queries, these once more and one tile of gates.
    again = queries + C * M * size if GB > 1 else 0
    return tiles + rows + angles + max(slots, again) + 512


def programs_together(call) -> int:
    """Programs that a multiprocessor holds at a time."""
    return min(8 // call.tiles.warps, SHARED // (shared_memory(call, False) + 1024)) or 1


def streams(call) -> bool:
    """Whether the stream takes a `Call`: shapes whose state fits into registers, on a GPU that copies by descriptors."""
    s, tiles, K, M = call.settings, call.tiles, call.q.shape[-1], call.g.shape[-1]
    if not s.slots or not s.scale > 0 or _window(call)[1] > MOST_BLOCKS or shared_memory(call, False) > SHARED:
        return False
    if call.v.shape[-1] != K or K not in (16, 32, 64, 128) or M not in (16, 32, 64) or call.q.shape[1] < tiles.GB:
        return False
    per_thread = 2 * K * M // (32 * tiles.warps)
    if per_thread > 64 or any(x.data_ptr() % 16 for x in (call.q, call.k, call.v, call.g, call.slot_q, call.slot_k)):
        return False
    if call.q.device.type == "cpu":
        return True
    # Hopper alone: earlier GPUs have no bulk copies, and what Triton 3.6 makes of it for later ones has not been seen to run.
    return call.q.dtype == torch.bfloat16 and torch.cuda.get_device_capability(call.q.device)[0] == 9


def stream_outputs(call, starts, totals, found) -> None:
    """Writes out, lse, lse_slots and lse_window of a `Call` into `found`; wrong ones for flagged chunks, to be written over."""
    tiles, constants = call.tiles, call.constants
    H, G, K, C, GB = (constants[name] for name in ("H", "G", "K", "C", "GB"))
    BK, NB, share = _window(call)
    whole = G % GB == 0 and not call.settings.packed and call.settings.time % C == 0
    out, *lse = found
    near_k = _turned(call, call.k) if call.settings.turn_k else call.k
    turns = call.cos is not None
    # Two programs of four warps have no room for it.
    copies = tiles.warps == 8 and shared_memory(call, True) <= SHARED
    by_head = lambda x: call.rows_of_head(x, C) if GB == 1 else call.described(x, [C, GB, K])  # noqa: E731
    near = (near_k, BK), (call.v, BK), (call.slot_k, C), (call.v, C), (call.g, C)
    names = ("H", "G", "K", "V", "M", "C", "GB", "WD", "PIECES", "BIAS", "SINK", "SEEN")
    launch(
        nha_fwd_kernel_stream, (len(call.plan.segments) * H * cdiv(G, GB),),
        by_head(call.q) if call.own_q else None, by_head(call.slot_q), *(call.rows_of_head(x, rows) for x, rows in near),
        by_head(out) if copies and whole else None, out, call.bias,
        starts, totals, call.seen, call.plan.segments, *lse, call.cos, call.sin, call.scale, call.delay, call.ring, 0,
        **{name: constants[name] for name in names}, BK=BK, OWN_Q=call.own_q, TURN=turns,
        ANGLES_BY_ROW=call.settings.angles_by_row, PARTS=call.settings.with_lse, COPIES=copies, WHOLE=whole,
        NB=NB, WINDOW=call.window, SHARE_K=share and not (call.own_q or call.own_k or turns), SHARE_V=share,
        num_warps=tiles.warps, num_stages=2,
    )  # fmt: skip
