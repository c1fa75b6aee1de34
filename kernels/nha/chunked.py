"""NHA in matrix products over chunks, in plain torch (backend `chunked`): any device, differentiable, memory linear in T.

Legend: N sequences, H key-value heads, G query heads a key-value head, T time, K, V head dimensions, M slots, R ring size,
w window, c chunk (16 tokens), S segment.

Time is walked in segments, each small enough that what it makes stays in a processor's cache. Within a segment

    window  one product of the segment's queries with the keys in their reach, masked to the band
    slots   their state is stepped from chunk to chunk; inside a chunk the decays between any two tokens,
            D[i, j] = g_{j+1} + ... + g_i, come from one product of g with a constant 0/1 matrix. Every term is <= 0, so
            exp(D) neither overflows nor cancels however strong the gates are
    softmax one over both

Sequences of unlike lengths are right-padded inside; a pad has log decay 0, which changes no slot. With M = 0 this is plain
sliding-window attention, and `kernels.sliding_window` uses it so.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.nha.state import NHAState, advance_ring
from kernels.nha.step import can_step, step
from kernels.packing import Packing
from kernels.rotary import turn, turn_back

CHUNK = 16


def chunked(
    q, k, v, g, *, window, delay, rotary, slot_q, slot_k, slot_bias, scale, empty_slots, cu_seqlens, state, with_lse=False,
    overwrite_state=False,
):  # fmt: skip
    """The operator. Arguments as checked by `nha_attention`; `delay` and `scale` resolved; M may be 0 (no slots).

    Returns out [B, T, HQ, V] in q's dtype, a function that makes the NHAState after the last token, and
    (lse_slots, lse_window) [B, T, HQ] or None.
    """
    if can_step(q.shape[1], window, delay, cu_seqlens, state):
        return step(
            q,
            k,
            v,
            g,
            window=window,
            delay=delay,
            rotary=rotary,
            slot_q=slot_q,
            slot_k=slot_k,
            slot_bias=slot_bias,
            scale=scale,
            empty_slots=empty_slots,
            state=state,
            with_lse=with_lse,
            overwrite_state=overwrite_state,
        )
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    dtype, heads = q.dtype, k.shape[2]
    given = {"q": q, "k": k, "v": v, "g": g, "slot_q": slot_q, "slot_k": slot_k}
    if rotary is not None:
        cos, sin = (x if x.dim() == 3 else x.expand(q.shape[0], *x.shape) for x in rotary)
        given |= {"cos": cos, "sin": sin}
    given = {name: x for name, x in given.items() if x is not None}
    packing = None
    if cu_seqlens is not None:
        packing = Packing(cu_seqlens)
        given = {name: packing.rows(x) for name, x in given.items()}
    rows = {name: (x.transpose(1, 2) if x.dim() == 4 else x) for name, x in given.items()}
    count, _, time, _ = rows["q"].shape
    lengths = packing.lengths if packing else torch.full((count,), time, device=q.device)
    seen = torch.zeros_like(lengths) if state is None else state.seen

    x = {name: t.to(exact) for name, t in rows.items()}
    # Queries as [N, H, T, G, K], so that a group's heads share each product with its keys.
    grouped = lambda t: t.unflatten(1, (heads, -1)).transpose(2, 3).contiguous()  # noqa: E731
    x["q"], x["slot_q"] = grouped(x["q"]), grouped(x["slot_q"]) if "slot_q" in x else None
    if rotary is not None:
        cos, sin = x["cos"][:, None], x["sin"][:, None]
        # The logits' scale rides on the queries' angles.
        near_q = turn(x["q"], scale * cos[..., None, :], scale * sin[..., None, :])
        near_k = turn(x["k"], cos, sin)
    else:
        near_q, near_k = scale * x["q"], x["k"]
    raw_k = x.get("slot_k", x["k"])
    before = {} if state is None else {name: t.to(exact) for name, t in state.chronological().items()}
    ring = 0 if state is None else state.ring_size
    values, decays = x["v"], x["g"]
    if ring:
        near_k, values = torch.cat([before["k"], near_k], 2), torch.cat([before["v"], values], 2)
        old_raw = before.get("raw_k")
        if old_raw is None and rotary is not None:
            old_raw = turn_back(before["k"], before["cos"][:, None], before["sin"][:, None])
        raw_k = torch.cat([before["k"] if old_raw is None else old_raw, raw_k], 2)
        decays = torch.cat([before["g"], decays], 2)

    slots = None
    if window is not None and g.shape[-1]:
        entering = [_entering(t, ring, delay, time) for t in (raw_k, values, decays)]
        met = x["q"] if x["slot_q"] is None else x["slot_q"]
        slots = _Slots(met, *entering, state, seen, lengths, delay, scale, slot_bias, empty_slots)
    found = _walk(near_q, near_k, values, slots, window, ring, seen, with_lse)
    found = [part.transpose(1, 2).flatten(2, 3) for part in found]
    out, *lse = [packing.pack(part) for part in found] if packing else found
    out, lse = out.to(dtype), tuple(lse) or None

    def after() -> NHAState:
        most = int((seen + lengths).max())
        size = max(ring, most if window is None else min(max(window, delay), most))
        tokens = {"k": near_k[:, :, ring:].to(dtype), "v": rows["v"], "g": rows["g"]}
        tokens |= {name: rows[name] for name in ("cos", "sin") if name in rows}
        if slot_k is not None:
            tokens["raw_k"] = rows["slot_k"]
        old = {} if state is None else state.chronological()
        rings = {name: advance_ring(old.get(name), new, seen, lengths, size) for name, new in tokens.items()}
        memory = slots.memory if slots else None
        if memory is None:
            empty = lambda d: q.new_zeros(count, heads, g.shape[-1], d, dtype=exact)  # noqa: E731
            memory = (empty(q.shape[-1]), empty(v.shape[-1]))
        return NHAState(*memory, seen=seen + lengths, window=window, delay=delay, **rings)

    return out, after, lse


def _entering(x: Tensor, ring: int, delay: int, time: int) -> Tensor:
    """[N, H, T, D]: at step i the token that enters the slots, `delay` before it; zeros where there is none."""
    start = ring - delay
    return F.pad(x[:, :, max(start, 0) : max(start + time, 0)], (0, 0, min(max(-start, 0), time), 0))


# What is kept may be wanted by a later call that trains, which an inference tensor cannot serve.
@lru_cache
@torch.inference_mode(False)
def _between(size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """0/1 matrices: [c * c, c] that sums g over j < l <= i into row (i, j), and the causal [c, c]."""
    i, j, step = torch.meshgrid(*[torch.arange(size, device=device)] * 3, indexing="ij")
    sums = ((j < step) & (step <= i)).to(dtype).view(size * size, size)
    return sums, torch.ones(size, size, dtype=dtype, device=device).tril()


class _Slots:
    """The slots' side of the walk. Keys, values and decays [N, H, T, D]; queries [N, H, T, G, K]."""

    def __init__(self, q, k, v, g, state, seen, lengths, delay, scale, bias, empty_slots):
        count, heads, time, group, _ = q.shape
        step = torch.arange(time, device=q.device)
        # A row's right padding lets no further token in, or its final state would be ahead of its tokens.
        alive = step < lengths[:, None]
        self.g = g if bool(alive.all()) else torch.where(alive[:, None, :, None], g, g.new_zeros(()))
        self.q, self.k, self.v, self.scale = q, k, v, scale
        self.bias = None if bias is None else bias.to(q.dtype).view(1, heads, 1, group, 1)
        empty = seen[:, None] + step < delay
        self.empty = None if empty_slots == "sink" or not bool(empty.any()) else empty[:, None, :, None, None]
        if state is None:
            slots = g.shape[-1]
            self.memory = (k.new_zeros(count, heads, slots, k.shape[-1]), v.new_zeros(count, heads, slots, v.shape[-1]))
        else:
            self.memory = (state.slot_k.to(k.dtype), state.slot_v.to(v.dtype))

    def logits(self, start: int, end: int) -> Tensor:
        """[N, H, L, G, M] for steps [start, end), and moves the slots on to `end`."""
        length = end - start
        size = min(CHUNK, length)
        chunks = -(-length // size)
        pad = chunks * size - length
        q = F.pad(self.q[:, :, start:end], (0, 0, 0, 0, 0, pad)).unflatten(2, (chunks, size))
        k, v, g = (F.pad(t[:, :, start:end], (0, 0, 0, pad)).unflatten(2, (chunks, size)) for t in (self.k, self.v, self.g))
        sums, causal = _between(size, g.dtype, g.device)
        # writes[i, j, m]: what token j of the chunk still weighs in slot m at its token i.
        writes = (sums @ g).exp_().unflatten(-2, (size, size)) * -torch.expm1(g).unsqueeze(-3)
        decay = g.cumsum(-2).exp()
        into = writes[..., -1, :, :].transpose(-1, -2)
        fresh_k, fresh_v, kept = into @ k, into @ v, decay[..., -1, :, None]
        memory_k, memory_v = self.memory
        starts = []
        for n in range(chunks):
            starts.append((memory_k, memory_v))
            memory_k = torch.addcmul(fresh_k[:, :, n], kept[:, :, n], memory_k)
            memory_v = torch.addcmul(fresh_v[:, :, n], kept[:, :, n], memory_v)
        self.memory = (memory_k, memory_v)
        at_k, self._at_v = (torch.stack(part, 2) for part in zip(*starts, strict=True))
        self._writes, self._decay, self._causal, self._v, self._length = writes, decay, causal[:, None], v, length
        flat = q.flatten(3, 4)
        near = (flat @ k.transpose(-1, -2)).view(*q.shape[:-1], size) * (self.scale * self._causal)
        far = (flat @ at_k.transpose(-1, -2)).view(*q.shape[:-1], -1)
        logits = torch.addcmul(near @ writes, far, (self.scale * decay).unsqueeze(-2)).flatten(2, 3)[:, :, :length]
        if self.bias is not None:
            logits = logits + self.bias
        return logits if self.empty is None else logits.masked_fill(self.empty[:, :, start:end], -torch.inf)

    def output(self, p: Tensor) -> Tensor:
        """[N, H, L, G, V] for the weights p [N, H, L, G, M] of the steps that `logits` was last asked for."""
        chunks, size = self._decay.shape[2:4]
        p = F.pad(p, (0, 0, 0, 0, 0, chunks * size - self._length)).unflatten(2, (chunks, size))
        far = (p * self._decay.unsqueeze(-2)).flatten(3, 4) @ self._at_v
        near = ((p @ self._writes.transpose(-1, -2)) * self._causal).flatten(3, 4) @ self._v
        return (far + near).view(*p.shape[:-1], -1).flatten(2, 3)[:, :, : self._length]


def _walk(q, k, v, slots, window, ring, seen, with_lse):
    """Scaled q [N, H, T, G, K] against k, v [N, H, R + T, *]: [out [N, H, T, G, V]], and both log-sum-exps [N, H, T, G]."""
    time, group = q.shape[2:4]
    reach = ring + time if window is None else window
    segment = min(max(64, 1 << max(reach - 1, 0).bit_length()), 256)
    unheld = (ring - seen).clamp(min=0)
    ragged = bool((unheld > 0).any())
    found = []
    for start in range(0, time, segment):
        end = min(start + segment, time)
        lowest = max(ring + start - reach + 1, 0)
        logits = [] if slots is None else [slots.logits(start, end)]
        if reach:
            hidden = _hidden(end - start, ring + start - lowest, reach, q.device)
            if ragged:
                hidden = hidden | (torch.arange(lowest, ring + end, device=q.device) < unheld[:, None, None, None, None])
            near_k, near_v = k[:, :, lowest : ring + end], v[:, :, lowest : ring + end]
            near = q[:, :, start:end].flatten(2, 3) @ near_k.transpose(-1, -2)
            logits.append(near.unflatten(2, (-1, group)).masked_fill_(hidden, -torch.inf))
        weights = logits[0] if len(logits) == 1 else torch.cat(logits, -1)
        # Without a window a query may come before any token has entered the slots: it attends to nothing and gives zeros.
        nothing = slots.empty[:, :, start:end] if not reach and slots.empty is not None else None
        weights = (weights if nothing is None else weights.masked_fill(nothing, 0.0)).softmax(-1)
        reached = logits[-1].shape[-1] if reach else 0
        far_weights, near_weights = weights.split([weights.shape[-1] - reached, reached], -1)
        out = slots.output(far_weights) if slots is not None else 0
        if reach:
            out = out + (near_weights.flatten(2, 3) @ near_v).unflatten(2, (-1, group))
        out = out if nothing is None else out.masked_fill(nothing, 0.0)
        absent = out.new_full(out.shape[:-1], -torch.inf) if with_lse else None
        lse_slots = logits[0].logsumexp(-1) if with_lse and slots is not None else absent
        lse_window = logits[-1].logsumexp(-1) if with_lse and reach else absent
        found.append((out, lse_slots, lse_window) if with_lse else (out,))
    return [torch.cat(part, 2) for part in zip(*found, strict=True)]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _hidden(queries: int, before: int, reach: int, device: torch.device) -> Tensor:
    """[L, 1, keys] bool: keys that L queries do not attend to, being later or out of reach; `before` keys come before them."""
    gap = torch.arange(queries, device=device)[:, None] + before - torch.arange(before + queries, device=device)
    return ((gap < 0) | (gap >= reach))[:, None]
