"""One token a sequence from a state, in plain torch: what `chunked` does at T = 1, without putting the ring in order.

Legend: N sequences, H key-value heads, G query heads a key-value head, K, V head dimensions, M slots, R ring size.

A softmax does not mind the order of its keys, so the ring is met as it lies: the token that enters the slots is read from
its place, the new one written to its own, and nothing else moves.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kernels.nha.state import NHAState
from kernels.rotary import turn, turn_back


def can_step(time: int, window: int | None, delay: int, cu_seqlens: Tensor | None, state: NHAState | None) -> bool:
    """Whether `step` takes the call: a single token, and a ring that has reached its full size."""
    if time != 1 or cu_seqlens is not None or state is None or window is None:
        return False
    return state.ring_size == max(window, delay)


def step(
    q, k, v, g, *, window, delay, rotary, slot_q, slot_k, slot_bias, scale, empty_slots, state, with_lse, overwrite_state
):  # fmt: skip
    """The operator for q [B, 1, HQ, K] and a state for which `can_step` holds; returns as `chunked` does."""
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    dtype, ring = q.dtype, state.ring_size
    heads, seen = k.shape[2], state.seen
    met = (q if slot_q is None else slot_q)[:, 0].unflatten(1, (heads, -1)).to(exact)
    near_q, new = q[:, 0].unflatten(1, (heads, -1)).to(exact), {"k": k, "v": v, "g": g}
    if rotary is not None:
        cos, sin = (x[:, None] if x.dim() == 3 else x for x in rotary)
        near_q = turn(near_q, cos.to(exact), sin.to(exact))
        new["k"] = turn(k.transpose(1, 2).to(exact), cos.to(exact), sin.to(exact)).to(dtype).transpose(1, 2)
    if slot_k is not None:
        new["raw_k"] = slot_k
    new = {name: x.transpose(1, 2) for name, x in new.items()}
    if rotary is not None:
        new |= {name: x.expand(len(seen), 1, -1) for name, x in zip(("cos", "sin"), rotary, strict=True)}

    memory_k, memory_v = state.slot_k.to(exact), state.slot_v.to(exact)
    logits, values = [], []
    if g.shape[-1]:
        enters = _entering(state, new, k if slot_k is None else slot_k, delay, exact)
        decay, fresh = enters["g"].exp().transpose(-1, -2), -torch.expm1(enters["g"]).transpose(-1, -2)
        memory_k = torch.addcmul(decay * memory_k, fresh, enters["k"])
        memory_v = torch.addcmul(decay * memory_v, fresh, enters["v"])
        far = scale * (met @ memory_k.transpose(-1, -2))
        if slot_bias is not None:
            far = far + slot_bias.to(exact).view(heads, -1, 1)
        if empty_slots == "mask":
            far = far.masked_fill((seen < delay)[:, None, None, None], -torch.inf)
        logits.append(far)
        values.append(memory_v)
    rings = {}
    if ring:
        place = (seen % ring)[:, None, None]
        for name, x in new.items():
            held = getattr(state, name)
            index = (place if held.dim() == 3 else place[..., None]).expand(x.shape)
            put = held.scatter_ if overwrite_state else held.scatter
            rings[name] = put(-2, index, x.to(held.dtype))
    if window:
        near = scale * (near_q @ rings["k"].to(exact).transpose(-1, -2))
        age = (seen[:, None] - torch.arange(ring, device=q.device)) % ring
        hidden = (age >= window) | (age > seen[:, None])
        logits.append(near.masked_fill(hidden[:, None, None], -torch.inf))
        values.append(rings["v"].to(exact))
    weights = torch.cat(logits, -1).softmax(-1)
    out = weights @ torch.cat(values, -2)
    if not window and empty_slots == "mask":
        # Nothing to attend to before the first token has entered the slots.
        out = out.masked_fill((seen < delay)[:, None, None, None], 0.0)
    lse = None
    if with_lse:
        absent = out.new_full(out.shape[:-1], -torch.inf)
        parts = (logits[0].logsumexp(-1) if g.shape[-1] else absent, logits[-1].logsumexp(-1) if window else absent)
        lse = tuple(part.flatten(1)[:, None] for part in parts)

    def after() -> NHAState:
        return replace(state, slot_k=memory_k, slot_v=memory_v, seen=seen + 1, **rings)

    return out.flatten(1, 2)[:, None].to(dtype), after, lse


def _entering(state: NHAState, new: dict[str, Tensor], raw_k: Tensor, delay: int, exact: torch.dtype) -> dict[str, Tensor]:
    """k, v, g [N, H, 1, D] of the token that enters the slots; places never reached hold zeros, which change nothing."""
    if delay == 0:
        return {"k": raw_k.transpose(1, 2).to(exact), "v": new["v"].to(exact), "g": new["g"].to(exact)}
    place = ((state.seen - delay) % state.ring_size)[:, None, None]

    def at(ring: Tensor) -> Tensor:
        index = place if ring.dim() == 3 else place[..., None]
        return ring.gather(-2, index.expand(*ring.shape[:-2], 1, ring.shape[-1])).to(exact)

    if state.raw_k is not None:
        key = at(state.raw_k)
    elif state.cos is not None:
        key = turn_back(at(state.k), at(state.cos)[:, None], at(state.sin)[:, None])
    else:
        key = at(state.k)
    return {"k": key, "v": at(state.v), "g": at(state.g)}
