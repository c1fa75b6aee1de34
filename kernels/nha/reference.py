"""NHA by its definition, one step a token (backend `recurrent`): what every other form is tested against.

Legend: T time, H key-value heads, G query heads a key-value head, K, V head dimensions, M slots.

Never optimised. Python lists hold the tokens; nothing is chunked, packed or padded. Computes in fp32, or fp64 where the
inputs are. Each line follows arXiv 2510.07019 as DESIGN of this project restates it:

    K~_t = a_j K~_{t-1} + (1 - a_j) k_j,  V~_t likewise,  for the token j = t - delay,  a_j = exp(g_j)
    o_t = softmax(scale [q_t K~_t^T, q_t k_{t-w+1..t}^T]) [V~_t ; v_{t-w+1..t}]
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from kernels.nha.state import NHAState, advance_ring
from kernels.rotary import turn, turn_back


def _one_sequence(q, k, v, g, window, delay, rotary, slot_q, slot_k, slot_bias, scale, empty_slots, past):
    """One sequence: q [T, HQ, K], k [T, H, K], v [T, H, V], g [T, H, M]; past: None or the lists of an earlier call."""
    time, query_heads, _ = q.shape
    heads, slots = g.shape[1:]
    group = query_heads // heads
    if rotary is None:
        turned_q, turned_k = q, k
    else:
        cos, sin = (x[:, None] for x in rotary)
        turned_q, turned_k = turn(q, cos, sin), turn(k, cos, sin)
    if past is None:
        memory_k, memory_v = q.new_zeros(heads, slots, q.shape[-1]), q.new_zeros(heads, slots, v.shape[-1])
        keys, values, entering, decays, position = [], [], [], [], 0
    else:
        memory_k, memory_v, keys, values, entering, decays, position = past
    keys, values = keys + list(turned_k), values + list(v)
    entering, decays = entering + list(slot_k), decays + list(g)
    first = len(keys) - time - position  # keys[first + j] is token j

    outs, lses = [], []
    for t in range(position, position + time):
        j = t - delay
        if window is not None and j >= 0:
            a = decays[first + j].exp()[..., None]
            fresh = -torch.expm1(decays[first + j])[..., None]
            memory_k = a * memory_k + fresh * entering[first + j][:, None]
            memory_v = a * memory_v + fresh * values[first + j][:, None]
        i = t - position
        logits, stored = [], []
        if window is not None and (j >= 0 or empty_slots == "sink"):
            met = slot_q[i].view(heads, group, -1)
            logits.append(scale * torch.einsum("hgk,hmk->hgm", met, memory_k) + slot_bias.view(heads, group, 1))
            stored.append(memory_v)
        in_slots = len(logits)
        lowest = 0 if window is None else max(0, t - window + 1)
        if lowest <= t:
            near_k = torch.stack(keys[first + lowest : first + t + 1], dim=1)
            logits.append(scale * torch.einsum("hgk,hjk->hgj", turned_q[i].view(heads, group, -1), near_k))
            stored.append(torch.stack(values[first + lowest : first + t + 1], dim=1))
        nothing = q.new_full((heads, group), -torch.inf)
        lse_slots = logits[0].logsumexp(-1) if in_slots else nothing
        lse_window = logits[-1].logsumexp(-1) if len(logits) > in_slots else nothing
        lses.append((lse_slots.reshape(-1), lse_window.reshape(-1)))
        if logits:
            out = torch.cat(logits, -1).softmax(-1) @ torch.cat(stored, 1)
        else:
            out = q.new_zeros(heads, group, v.shape[-1])
        outs.append(out.reshape(query_heads, -1))
    lse = tuple(torch.stack(part) for part in zip(*lses, strict=True))
    return torch.stack(outs), lse, memory_k, memory_v


def recurrent(q, k, v, g, *, window, delay, rotary, slot_q, slot_k, slot_bias, scale, empty_slots, cu_seqlens, state):
    """The operator, sequence by sequence. Arguments as checked by `nha_attention`; `delay` and `scale` resolved.

    Returns out [B, T, HQ, V] in q's dtype, the NHAState after the last token, and (lse_slots, lse_window) [B, T, HQ].
    """
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    dtype = q.dtype
    keeps_raw = slot_k is not None
    slot_q, slot_k = (q if slot_q is None else slot_q), (k if slot_k is None else slot_k)
    bias = q.new_zeros(q.shape[2]) if slot_bias is None else slot_bias
    batch, time = q.shape[:2]
    bounds = [(b, 0, time) for b in range(batch)]
    if cu_seqlens is not None:
        ends = cu_seqlens.tolist()
        bounds = [(0, start, end) for start, end in pairwise(ends)]
    angles = None
    if rotary is not None:
        angles = [x if x.dim() == 3 else x.expand(batch, *x.shape) for x in rotary]

    outs, lses, parts = [], [], []
    for n, (b, start, end) in enumerate(bounds):
        piece = {
            name: x[b, start:end].to(exact)
            for name, x in {"q": q, "k": k, "v": v, "g": g, "slot_q": slot_q, "slot_k": slot_k}.items()
        }
        turns = None if angles is None else tuple(x[b, start:end].to(exact) for x in angles)
        past = _past(state, n, exact) if state is not None else None
        if start == end:
            parts.append(past[:2] if past else tuple(g.new_zeros(*g.shape[2:], x.shape[-1], dtype=exact) for x in (q, v)))
            continue
        out, lse, memory_k, memory_v = _one_sequence(
            piece["q"],
            piece["k"],
            piece["v"],
            piece["g"],
            window,
            delay,
            turns,
            piece["slot_q"],
            piece["slot_k"],
            bias.to(exact),
            scale,
            empty_slots,
            past,
        )
        outs.append(out)
        lses.append(lse)
        parts.append((memory_k, memory_v))
    join = (lambda xs: torch.cat(xs)[None]) if cu_seqlens is not None else torch.stack
    out = join(outs).to(dtype)
    lse = tuple(join(list(part)) for part in zip(*lses, strict=True))
    after = _state_after(k, v, g, slot_k if keeps_raw else None, angles, bounds, parts, window, delay, state)
    return out, after, lse


def _past(state: NHAState, n: int, exact: torch.dtype):
    """Sequence n's slots and token lists out of a state."""
    held = min(int(state.seen[n]), state.ring_size)
    ring = {name: x[n].to(exact) for name, x in state.chronological().items()}
    raw = ring.get("raw_k")
    if raw is None:
        raw = turn_back(ring["k"], ring["cos"], ring["sin"]) if "cos" in ring else ring["k"]
    lists = [list(x.transpose(0, 1))[x.shape[1] - held :] for x in (ring["k"], ring["v"], raw, ring["g"])]
    return state.slot_k[n].to(exact), state.slot_v[n].to(exact), *lists, int(state.seen[n])


def _state_after(k, v, g, raw_k, angles, bounds, parts, window, delay, state) -> NHAState:
    """The state after the call: each sequence's slots, and rings grown or moved on by its new tokens."""
    device = k.device
    lengths = torch.tensor([end - start for _, start, end in bounds], device=device)
    seen = torch.zeros_like(lengths) if state is None else state.seen
    old = {} if state is None else state.chronological()
    most = int((seen + lengths).max())
    size = most if window is None else min(max(window, delay), most)
    if state is not None:
        size = max(size, state.ring_size)
    longest = int(lengths.max())

    def ring(name: str, x: Tensor) -> Tensor:
        rows = [torch.nn.functional.pad(x[b, s:e], [0, 0] * (x.dim() - 2) + [0, longest - (e - s)]) for b, s, e in bounds]
        new = torch.stack(rows)
        new = new.transpose(1, 2) if new.dim() == 4 else new
        return advance_ring(old.get(name), new, seen, lengths, size)

    turned = k if angles is None else turn(k, *(x[:, :, None] for x in angles)).to(k.dtype)
    tokens = {"k": turned, "v": v, "g": g}
    if raw_k is not None:
        tokens["raw_k"] = raw_k
    if angles is not None:
        tokens |= {"cos": angles[0], "sin": angles[1]}
    rings = {name: ring(name, x) for name, x in tokens.items()}
    memory_k, memory_v = (torch.stack(list(part)) for part in zip(*parts, strict=True))
    return NHAState(memory_k, memory_v, seen=seen + lengths, window=window, delay=delay, **rings)
