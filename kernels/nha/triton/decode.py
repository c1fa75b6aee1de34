"""A decode step in one launch: a few new tokens of every sequence, from a state that is written over in place.

Legend: N sequences, T new tokens, H key-value heads, G query heads each, K, V head dimensions, M slots, R ring size. TP tokens
are taken together, GP is G as a power of two, and Q >= TP * GP rows hold their queries: row r is token r // GP, head r % GP.
Blocks are of B slots or B keys; BT rows hold all T new tokens; KP, VP are K, V padded.

One program is one sequence and key-value head, since slots are written in place and their readers must come first. It goes
over the slots in blocks, then over the new tokens and the ring, with one running softmax; the ring's first block goes along
with the slots where these are one block. Slots stay fp32 where they are moved on, and are rounded where tensor cores read them,
as in a prefill: by multiplying and adding on plain cores a step would be bound by its instructions, not by its bytes.

The products are with the slots as they lie. That slot m then becomes d_m S_m + u_m x, for each token x that enters, is done to
the logits, d_m z_m + u_m (q x), and to the weights on the way to the values; so one product does however many tokens, and none
waits for what `seen` decides.

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

from kernels.nha.triton.common import columns, log2e, turned_columns, written
from kernels.nha.triton.counts import cdiv, power_of_2
from kernels.nha.triton.forward import joined, weighed
from kernels.nha.triton.launch import ALL_REGISTERS, launch_step

# More new tokens than this are a prompt: the parallel form takes them.
MOST_TOKENS = 8
# A ring is brought to its full size before its time if that is no longer than this: it need not end up as long as its window.
MOST_GROWN = 4096
# Programs that find a multiprocessor each on a large GPU.
FEW = 128


@triton.jit
def _columns(D: tl.constexpr, DP: tl.constexpr):
    """`columns` in runs of four, the last first: a thread then loads four of them whatever the dtype. Runs of eight in half
    precision would have slots in fp32 loaded by eight and stored by four, which is an exchange between all threads."""
    col, ok = columns(D, DP)
    if D == DP:
        i = tl.arange(0, DP)
        col = DP - 4 - i // 4 * 4 + i % 4
    return col, ok


@triton.jit
def _block(x, at, count, col, ok, D: tl.constexpr):
    """Rows `at` of x [count, D], those that there are."""
    return tl.load(x + (at[:, None] * D + col), mask=(at < count)[:, None] & ok, other=0.0)


@triton.jit
def _turned_back(x, at, held, col, cos, sin, angles, K: tl.constexpr):
    """Row x[at : at + K] in fp32, the rotary turn by the angles at row `angles` undone."""
    half: tl.constexpr = K // 2
    first = col < half
    y = tl.load(x + at + col, mask=held, other=0.0).to(tl.float32)
    other = tl.load(x + at + tl.where(first, col + half, col - half), mask=held, other=0.0).to(tl.float32)
    angle = angles * half + tl.where(first, col, col - half)
    c = tl.load(cos + angle, mask=held, other=0.0).to(tl.float32)
    s = tl.load(sin + angle, mask=held, other=0.0).to(tl.float32)
    size = c * c + s * s
    return (y * c + tl.where(first, other, -other) * s) / tl.where(size > 0, size, 1.0)


@triton.jit
def _keys(near, keys, visible, scale2, PREC: tl.constexpr):
    """Logits [Q, B] of keys [B, KP] in units of log 2, -inf where not visible [Q, B]."""
    z = tl.dot(near, tl.trans(keys.to(near.dtype)), input_precision=PREC) * scale2
    return tl.where(visible, z, float("-inf"))


@triton.jit
def _sees(cell, newest, size, ring, reach):
    """Whether the tokens at these cells of the ring are less than `reach` [Q] before the newest: [Q, B]."""
    back = newest - cell
    back = tl.where(back < 0, back + size, back)
    return (cell < ring)[None, :] & (back[None, :] < reach[:, None])


@triton.jit(do_not_specialize=["window", "delay", "ring"])
def nha_fwd_kernel_decode(
    q, k, v, g, slot_q, slot_k, bias, cos, sin,
    memory_k, memory_v, ring_k, ring_v, ring_g, ring_raw, ring_cos, ring_sin, seen,
    out, lse_slots, lse_window,
    scale, window, delay, ring,
    T: tl.constexpr, H: tl.constexpr, G: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    TP: tl.constexpr, GP: tl.constexpr, Q: tl.constexpr, B: tl.constexpr, BT: tl.constexpr, KP: tl.constexpr, VP: tl.constexpr,
    MP: tl.constexpr, STAGES: tl.constexpr, WD: tl.constexpr, PREC: tl.constexpr, PIECES: tl.constexpr, TURN: tl.constexpr,
    ANGLES_BY_ROW: tl.constexpr, RAW: tl.constexpr, BIAS: tl.constexpr, SINK: tl.constexpr, PARTS: tl.constexpr,
    WIDE: tl.constexpr, EARLY: tl.constexpr, CROSSES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """q, slot_q, out [N, T, H, G, *]; k, slot_k, v, g [N, T, H, *]; memory_* [N, H, M, *]; ring_* [N, H, R, *], its angles
    [N, R, K/2]; lse_* [N, T, H, G], if PARTS. WIDE: whether R > B. CROSSES: whether new tokens enter the slots at once,
    delay < T. EARLY: values are asked for along with keys, at the cost of registers that a second program cannot have then."""
    if PDL:
        # All that is read here changes, so nothing comes before the wait; but what follows may ask for its weights.
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    pair = tl.program_id(0).to(tl.int64)
    n, h = pair // H, pair % H
    kcol, kok = _columns(K, KP)
    vcol, vok = _columns(V, VP)
    # Slots of a block, and keys of one.
    at = tl.arange(0, B)
    new = tl.arange(0, BT)
    token, head = tl.arange(0, Q) // GP, tl.arange(0, Q) % GP
    # Triton's interpreter masks a block by another alone, so that a token's number is a block of one.
    none = tl.zeros([1], tl.int32)
    ONE_BLOCK: tl.constexpr = M > 0 and M <= B
    # Offsets within a sequence and head are 32-bit, and the addresses of a tile one base and constants.
    memory_k += pair * (M * K)
    memory_v += pair * (M * V)
    ring_k += pair * ring * K
    ring_v += pair * ring * V
    ring_g += pair * ring * M

    past = (tl.load(seen + n) & 0xFFFFFFFF).to(tl.int32)
    size = tl.maximum(ring, 1)
    newest = (past + size - 1) % size
    scale2 = scale * log2e()
    angle = n * T if ANGLES_BY_ROW else 0

    new_row = (n * T + new) * H + h
    for first in range(0, T, TP):
        # All that does not wait for `seen` is asked for at once.
        if ONE_BLOCK:
            far_k = _block(memory_k, at, M, kcol, kok, K)
            if EARLY:
                far_v = _block(memory_v, at, M, vcol, vok, V)
        old_k = _block(ring_k, at, ring, kcol, kok, K)
        if EARLY:
            old_v = _block(ring_v, at, ring, vcol, vok, V)
        t = first + token
        is_row = (t < T) & (token < TP) & (head < G)
        row = ((n * T + t) * H + h) * G + head
        near = turned_columns(q, row * K, is_row, kcol, kok, cos, sin, angle + t, K, TURN)
        met = tl.load(slot_q + row[:, None] * K + kcol, mask=is_row[:, None] & kok, other=0.0)

        # The tokens that enter the slots: out of the ring, or (a delay under T) out of the new ones.
        in_k, scores = (), ()
        for i in tl.static_range(TP):
            step = first + i + none
            enters = (past + step >= delay) & (step < T)
            held, came = enters & (step < delay), enters & (step >= delay)
            place = (past + step - delay) % size
            if RAW:
                x = tl.load(ring_raw + (pair * ring + place) * K + kcol, mask=held & kok, other=0.0).to(tl.float32)
            elif TURN:
                x = _turned_back(ring_k, place * K, held & kok, kcol, ring_cos, ring_sin, n * ring + place, K)
            else:
                x = tl.load(ring_k + place * K + kcol, mask=held & kok, other=0.0).to(tl.float32)
            if CROSSES:
                from_row = (n * T + step - delay) * H + h
                x += tl.load(slot_k + from_row * K + kcol, mask=came & kok, other=0.0).to(tl.float32)
            in_k += (x[None, :],)
            scores += (tl.sum(met.to(tl.float32) * x[None, :], 1)[:, None],)

        # How far back from the newest token in the ring each query sees.
        reach = tl.minimum(window - 1 - t, past)
        z_old = _keys(near, old_k, _sees(at, newest, size, ring, reach), scale2, PREC)
        none_top, none_mass = tl.full([Q], float("-inf"), tl.float32), tl.zeros([Q], tl.float32)
        top, mass = none_top, none_mass
        own_top, own_mass = none_top, none_mass
        acc = tl.zeros([Q, VP], tl.float32)
        for m0 in range(0, M, B):
            m = m0 + at
            far_at, far_ok = m[:, None] * K + kcol, (m < M)[:, None] & kok
            value_at, value_ok = m[:, None] * V + vcol, (m < M)[:, None] & vok
            if not ONE_BLOCK:
                far_k = _block(memory_k, m, M, kcol, kok, K)
            decays, writes = (), ()
            for i in tl.static_range(TP):
                step = first + i + none
                takes = (m < M) & (past + step >= delay) & (step < T)
                gate_at = (past + step - delay) % size * M + m
                gate = tl.load(ring_g + gate_at, mask=takes & (step < delay), other=0.0).to(tl.float32)
                if CROSSES:
                    gate_at = ((n * T + step - delay) * H + h) * M + m
                    gate += tl.load(g + gate_at, mask=takes & (step >= delay), other=0.0).to(tl.float32)
                # exp of either is 0, but -inf would turn a product with 0 into NaN.
                gate = tl.maximum(gate, -1e30)
                decays += (tl.exp2(gate * log2e()),)
                writes += (written(gate, PIECES),)
            is_slot = (m < M)[:, None]
            z = tl.dot(met.to(WD), tl.trans(tl.where(is_slot, far_k, 0.0).to(WD)), input_precision=PREC)
            for i in tl.static_range(TP):
                moved = z * decays[i][None, :] + scores[i] * writes[i][None, :]
                z = moved if TP == 1 else tl.where((token >= i)[:, None], moved, z)
            for i in tl.static_range(TP):
                far_k = decays[i][:, None] * far_k + writes[i][:, None] * in_k[i]
            # Of a small block several threads hold the same element, and all must have read it.
            tl.debug_barrier()
            tl.store(memory_k + far_at, far_k, mask=far_ok)
            z *= scale2
            if BIAS:
                z += (tl.load(bias + h * G + head, mask=head < G, other=0.0).to(tl.float32) * log2e())[:, None]
            shown = (m < M)[None, :]
            if not SINK:
                shown = shown & (past + t >= delay)[:, None]
            z = tl.where(shown, z, float("-inf"))
            in_v = ()
            for i in tl.static_range(TP):
                step = first + i + none
                enters = (past + step >= delay) & (step < T)
                at_v = (past + step - delay) % size * V + vcol
                value = tl.load(ring_v + at_v, mask=enters & (step < delay) & vok, other=0.0).to(tl.float32)
                if CROSSES:
                    at_v = ((n * T + step - delay) * H + h) * V + vcol
                    value += tl.load(v + at_v, mask=enters & (step >= delay) & vok, other=0.0).to(tl.float32)
                in_v += (value[None, :],)
            if not (ONE_BLOCK and EARLY):
                far_v = _block(memory_v, m, M, vcol, vok, V)
            if PARTS:
                _, _, own_top, own_mass = weighed(z, own_top, own_mass)
            if ONE_BLOCK:
                # The ring's first block goes along: one maximum, and nothing to shrink.
                if not EARLY:
                    old_v = _block(ring_v, at, ring, vcol, vok, V)
                top = tl.max(tl.maximum(z, z_old), 1)
                finite = tl.where(top == float("-inf"), 0.0, top)[:, None]
                p, p_old = tl.exp2(z - finite), tl.exp2(z_old - finite)
                mass = tl.sum(p + p_old, 1)
                acc = tl.dot(p_old.to(old_v.dtype), old_v, input_precision=PREC)
            else:
                p, shrink, top, mass = weighed(z, top, mass)
                acc *= shrink[:, None]
            for i in tl.static_range(TP - 1, -1, -1):
                share = p * writes[i][None, :]
                acc += tl.sum(share if TP == 1 else tl.where((token >= i)[:, None], share, 0.0), 1)[:, None] * in_v[i]
                share = p * decays[i][None, :]
                p = share if TP == 1 else tl.where((token >= i)[:, None], share, p)
            acc = tl.dot(p.to(WD), tl.where(is_slot, far_v, 0.0).to(WD), acc, input_precision=PREC)
            for i in tl.static_range(TP):
                far_v = decays[i][:, None] * far_v + writes[i][:, None] * in_v[i]
            tl.debug_barrier()
            tl.store(memory_v + value_at, far_v, mask=value_ok)
        if PARTS:
            tl.store(lse_slots + row, (own_top + tl.log2(own_mass)) / log2e(), mask=is_row)
            _, _, own_top, own_mass = weighed(z_old, none_top, none_mass)

        if not ONE_BLOCK:
            if not EARLY:
                old_v = _block(ring_v, at, ring, vcol, vok, V)
            top, mass, acc = joined(z_old, old_v, top, mass, acc, PREC)
        fresh_k = turned_columns(k, new_row * K, new < T, kcol, kok, cos, sin, angle + new, K, TURN).to(ring_k.dtype.element_ty)
        fresh_v = tl.load(v + new_row[:, None] * V + vcol, mask=(new < T)[:, None] & vok, other=0.0)
        fresh_v = fresh_v.to(ring_v.dtype.element_ty)
        if T == 1:
            # Not a block of its own, as a matrix product would be made of.
            z_new = tl.sum(near.to(tl.float32) * fresh_k.to(near.dtype).to(tl.float32), 1)[:, None] * scale2
            z_new = tl.where(window > 0, z_new, float("-inf"))
            p_new, shrink, top, mass = weighed(z_new, top, mass)
            acc = acc * shrink[:, None] + p_new * fresh_v.to(tl.float32)
        else:
            gap = t[:, None] - new[None, :]
            z_new = _keys(near, fresh_k, (gap >= 0) & (gap < window), scale2, PREC)
            top, mass, acc = joined(z_new, fresh_v, top, mass, acc, PREC)
        if PARTS:
            _, _, own_top, own_mass = weighed(z_new, own_top, own_mass)
        if WIDE:
            for p0 in tl.range(B, tl.where(window > 0, ring, 0), B, num_stages=STAGES):
                cell = p0 + at
                next_k = _block(ring_k, cell, ring, kcol, kok, K)
                next_v = _block(ring_v, cell, ring, vcol, vok, V)
                z_old = _keys(near, next_k, _sees(cell, newest, size, ring, reach), scale2, PREC)
                top, mass, acc = joined(z_old, next_v, top, mass, acc, PREC)
                if PARTS:
                    _, _, own_top, own_mass = weighed(z_old, own_top, own_mass)
        if PARTS:
            tl.store(lse_window + row, (own_top + tl.log2(own_mass)) / log2e(), mask=is_row)

        # Where nothing is attended to (no window, nothing in the slots yet) the output is zero.
        y = acc * (1.0 / tl.where(mass > 0, mass, 1.0))[:, None]
        tl.store(out + row[:, None] * V + vcol, y.to(out.dtype.element_ty), mask=is_row[:, None] & vok)
        # What follows writes over what this pass has read, and the next one reads the slots that it wrote.
        tl.debug_barrier()

    # The new tokens take their places, the last R of them if there are more.
    # Read once more, for their registers are worth more than the loads.
    fresh_k = turned_columns(k, new_row * K, new < T, kcol, kok, cos, sin, angle + new, K, TURN).to(ring_k.dtype.element_ty)
    fresh_v = tl.load(v + new_row[:, None] * V + vcol, mask=(new < T)[:, None] & vok, other=0.0).to(ring_v.dtype.element_ty)
    stays = (new < T) & (new + ring >= T)
    place = (past + new) % size
    tl.store(ring_k + place[:, None] * K + kcol, fresh_k, mask=stays[:, None] & kok)
    tl.store(ring_v + place[:, None] * V + vcol, fresh_v, mask=stays[:, None] & vok)
    if RAW:
        raw_k = tl.load(slot_k + new_row[:, None] * K + kcol, mask=stays[:, None] & kok, other=0.0)
        raw_at = (pair * ring + place)[:, None] * K + kcol
        tl.store(ring_raw + raw_at, raw_k.to(ring_raw.dtype.element_ty), mask=stays[:, None] & kok)
    m = tl.arange(0, MP)
    takes = stays[:, None] & (m < M)
    fresh_g = tl.load(g + new_row[:, None] * M + m, mask=takes, other=0.0).to(ring_g.dtype.element_ty)
    tl.store(ring_g + place[:, None] * M + m, fresh_g, mask=takes)
    arrived = tl.atomic_add(seen + n, 1 << 32) >> 32
    if arrived == H - 1:
        if TURN:
            half: tl.constexpr = K // 2
            f = tl.arange(0, KP // 2)
            turns = stays[:, None] & (f < half)
            c = tl.load(cos + (angle + new)[:, None] * half + f, mask=turns, other=0.0).to(ring_cos.dtype.element_ty)
            s = tl.load(sin + (angle + new)[:, None] * half + f, mask=turns, other=0.0).to(ring_sin.dtype.element_ty)
            tl.store(ring_cos + (n * ring + place)[:, None] * half + f, c, mask=turns)
            tl.store(ring_sin + (n * ring + place)[:, None] * half + f, s, mask=turns)
        tl.store(seen + n, (past + T).to(tl.int64))


@lru_cache
def choose_tiles(programs: int, T: int, G: int, K: int, V: int, M: int, ring: int) -> dict:
    """Compile-time sizes and launch options for a shape, the fastest of those tried on an H100. Where each program has a
    multiprocessor of its own it takes eight warps, and asks for all at once; else two programs of four share one."""
    KP, VP = (2 * max(8, power_of_2(cdiv(n, 2))) for n in (K, V))
    GP, few, wide = power_of_2(G), programs <= FEW, max(KP, VP) > 128
    # 64 rows of 128 columns of slots, and as many of the ring, are 96 registers of 256 threads.
    B = 32 if wide or (ring > 64 and not few) else 64
    TP = max(1, min(power_of_2(T), 4, 32 // GP))
    return {
        "TP": TP, "GP": GP, "Q": max(16, TP * GP), "B": B, "BT": 1 if T == 1 else 16, "KP": KP, "VP": VP,
        "MP": power_of_2(max(M, 1)), "STAGES": 4 if B == 32 else 3, "WIDE": ring > B, "EARLY": few,
        "num_warps": 8 if few or wide or T > 1 else 4, "maxnreg": ALL_REGISTERS if wide or T > 1 else None,
    }  # fmt: skip


def _decode(
    q, k, v, g, slot_q, slot_k, bias, cos, sin, memory_k, memory_v, ring_k, ring_v, ring_g, ring_raw, ring_cos, ring_sin, seen,
    out, lse_slots, lse_window, window, delay, scale, sink,
):  # fmt: skip
    """Writes the outputs, and moves the state's tensors on by the new tokens, all contiguous."""
    N, T, HQ, K = q.shape
    H, V, M = k.shape[2], v.shape[3], g.shape[3]
    exact = q.dtype == torch.float32
    launch_step(
        nha_fwd_kernel_decode, (N * H,),
        q, k, v, g, q if slot_q is None else slot_q, k if slot_k is None else slot_k, bias, cos, sin,
        memory_k, memory_v, ring_k, ring_v, ring_g, ring_raw, ring_cos, ring_sin, seen, out, lse_slots, lse_window,
        scale, window, delay, ring_k.shape[2],
        T=T, H=H, G=HQ // H, K=K, V=V, M=M, **choose_tiles(N * H, T, HQ // H, K, V, M, ring_k.shape[2]),
        WD={torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(q.dtype, tl.float32),
        PREC="ieee" if exact else "tf32", PIECES=0 if exact else 1,
        TURN=cos is not None, ANGLES_BY_ROW=cos is not None and cos.dim() == 3, RAW=ring_raw is not None,
        BIAS=bias is not None, SINK=sink, PARTS=lse_slots is not None, CROSSES=bool(delay < T),
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
