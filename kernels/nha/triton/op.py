"""The Triton backend's entry: lays the arguments out for the kernels, calls their operator, and moves the state on.

Legend: N sequences, B, T as given, H key-value heads, HQ query heads, K, V head dimensions, M slots, D = K + V, R ring.

Kernels see flat tensors [rows, heads, dim]. Going on from a state, the ring's R tokens stand before each sequence's new ones,
so one index serves both: token j of a sequence (j < 0 in the ring) is at row ``first + (n + 1) * R + j``.

    from kernels import nha_attention
    out, state = nha_attention(q, k, v, g, window=64, backend="triton")
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from kernels.nha.state import NHAState, advance_ring
from kernels.nha.triton.prompt_state import tensors_after
from kernels.nha.triton.registered import Settings  # with it come nha::forward and nha::backward
from kernels.rotary import turn, turn_back

# Further than any token: a window of None.
EVERYTHING = 1 << 30


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why these inputs cannot be taken, or None."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"wants a CUDA device and q is on {device}; use 'chunked', or set TRITON_INTERPRET=1 to interpret the kernels"
    if dtype == torch.float64:
        return "takes fp16, bf16 and fp32; use 'chunked' or 'recurrent' for fp64"
    return None


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.flatten(0, 1).contiguous()


def triton_nha(
    q, k, v, g, *, window, delay, rotary, slot_q, slot_k, slot_bias, scale, empty_slots, cu_seqlens, state, with_lse=False
):
    """The operator. Arguments as checked by `nha_attention`; `delay` and `scale` resolved; M may be 0 (no slots).

    Returns out [B, T, HQ, V] in q's dtype, a function that makes the NHAState after the last token, and
    (lse_slots, lse_window) [B, T, HQ] or None.
    """
    batch, time = q.shape[:2]
    packed = 0 if cu_seqlens is None else len(cu_seqlens) - 1
    ring = 0 if state is None else state.ring_size
    cos, sin = (None, None) if rotary is None else (x.contiguous() for x in rotary)
    layout = _Ring(state, cu_seqlens, batch, time) if ring else None
    g = g.float() if g.dtype == torch.float64 else g
    if layout is None:
        near_k, raw_k, values, decays = _flat(k), _flat(slot_k), _flat(v), _flat(g)
    else:
        before = state.chronological()
        old_raw = before.get("raw_k")
        if old_raw is None and rotary is not None:
            old_raw = turn_back(before["k"], before["cos"][:, None], before["sin"][:, None])
        fresh_k = _turned(k, rotary)
        near_k, values, decays = (layout.join(before[name], x) for name, x in (("k", fresh_k), ("v", v), ("g", g)))
        raw_k = layout.join(before["k"] if old_raw is None else old_raw, k if slot_k is None else slot_k)
        raw_k = None if rotary is None and slot_k is None and "raw_k" not in before else raw_k
    first = seen = None
    slots = window is not None and g.shape[-1] > 0
    if state is not None:
        seen = state.seen
    if state is not None and slots:
        first = torch.cat([state.slot_k, state.slot_v], -1).float().transpose(-1, -2).contiguous()
    tensors = _flat(q), near_k, values, decays, _flat(slot_q), raw_k, slot_bias, first
    store = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    settings = Settings(
        batch, time, packed, EVERYTHING if window is None else min(window, EVERYTHING), min(delay, EVERYTHING), ring, slots,
        empty_slots == "sink", rotary is not None and not ring, rotary is not None and (cos.dim() == 3 or packed > 0),
        with_lse, store, scale,
    )  # fmt: skip
    out, final, _, lse_slots, lse_window, *_ = torch.ops.nha.forward.default(
        *tensors, cos, sin, seen, cu_seqlens, *settings.arguments()
    )
    shaped = lambda x: x.view(batch, time, *x.shape[1:])  # noqa: E731
    lse = (shaped(lse_slots), shaped(lse_window)) if with_lse else None

    def after() -> NHAState:
        memory = final if slots else None
        # Without a ring before them the flat tensors are the tokens as given, laid out already.
        tokens = (k, v, g, slot_k) if layout else [None if x is None else shaped(x) for x in (near_k, values, decays, raw_k)]
        return _state_after(*tokens, rotary, memory, window, delay, cu_seqlens, state)

    return shaped(out), after, lse


def _turned(k: Tensor, rotary) -> Tensor:
    """k [B, T, H, K] as the window meets it."""
    if rotary is None:
        return k
    cos, sin = (x.to(torch.float32)[..., :, None, :] for x in rotary)
    return turn(k, cos, sin).to(k.dtype)


class _Ring:
    """Puts each sequence's ring before its new tokens."""

    def __init__(self, state: NHAState, cu_seqlens: Tensor | None, batch: int, time: int):
        self.order, R, N = None, state.ring_size, len(state.seen)
        if cu_seqlens is None:
            return
        device = state.seen.device
        cu = cu_seqlens.to(device).long()
        token, ring = torch.arange(time, device=device), torch.arange(R, device=device)
        sequence = torch.searchsorted(cu[1:], token, right=True)
        self.order = torch.empty(N * R + time, dtype=torch.long, device=device)
        n = torch.arange(N, device=device)[:, None]
        self.order[(cu[:-1, None] + n * R + ring).flatten()] = torch.arange(N * R, device=device)
        self.order[token + (sequence + 1) * R] = N * R + token

    def join(self, ring: Tensor, new: Tensor) -> Tensor:
        """ring [N, H, R, D], new [B, T, H, D] -> flat [rows, H, D]."""
        ring = ring.transpose(1, 2).to(new.dtype)
        if self.order is None:
            return torch.cat([ring, new], 1).flatten(0, 1).contiguous()
        return torch.cat([ring.flatten(0, 1), new[0]]).index_select(0, self.order)


def _state_after(k, v, g, slot_k, rotary, final, window, delay, cu_seqlens, state) -> NHAState:
    """The state after the call. Of the new tokens only the last R of each sequence are touched."""
    tokens = {"k": k, "v": v, "g": g}
    if slot_k is not None:
        tokens["raw_k"] = slot_k
    if state is None and cu_seqlens is None:
        return _state_of_prompts(tokens, rotary, final, window, delay)
    device = k.device
    if cu_seqlens is None:
        starts = torch.arange(k.shape[0], device=device) * k.shape[1]
        lengths = torch.full_like(starts, k.shape[1])
    else:
        cu = cu_seqlens.to(device).long()
        starts, lengths = cu[:-1], cu.diff()
    seen = torch.zeros_like(lengths) if state is None else state.seen
    if cu_seqlens is None:
        most = k.shape[1] + (0 if state is None else state.ring_size)
    else:
        most = int((seen + lengths).max())
    size = most if window is None else min(max(window, delay), most)
    size = size if state is None else max(size, state.ring_size)
    tail = lengths.clamp(max=size)
    place = torch.arange(size, device=device)
    index = (starts + lengths - tail)[:, None] + place
    index = torch.where(place < tail[:, None], index, index.new_zeros(()))
    old = {} if state is None else state.chronological()

    def ring(name: str, x: Tensor) -> Tensor:
        new = x.flatten(0, 1)[index]
        new = new.transpose(1, 2) if new.dim() == 4 else new
        return advance_ring(old.get(name), new, seen + lengths - tail, tail, size)

    near = tokens.pop("k").flatten(0, 1)[index]
    if rotary is not None:
        rows = [x if x.dim() == 3 else x.expand(*k.shape[:2], -1) for x in rotary]
        tokens |= dict(zip(("cos", "sin"), rows, strict=True))
    rings = {name: ring(name, x) for name, x in tokens.items()}
    if rotary is not None:
        near = _turned(near, tuple(tokens[name].flatten(0, 1)[index] for name in ("cos", "sin")))
    rings["k"] = advance_ring(old.get("k"), near.transpose(1, 2), seen + lengths - tail, tail, size)
    memory = _memory(final, len(seen), k, v, g)
    return NHAState(*memory, seen=seen + lengths, window=window, delay=delay, **rings)


def _state_of_prompts(tokens: dict[str, Tensor], rotary, final, window, delay) -> NHAState:
    """Of sequences of one length, from nothing: the rings are the last tokens, turned round."""
    k, v, g = (tokens[name] for name in ("k", "v", "g"))
    batch, time = k.shape[:2]
    size = time if window is None else min(max(window, delay), time)
    if not (torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (*tokens.values(), final))):
        kept = tensors_after(k, v, g, tokens.get("raw_k"), rotary, final, size)
        return NHAState(**kept, window=window, delay=delay)
    last = {name: x[:, time - size :] for name, x in tokens.items()}
    if rotary is not None:
        cos, sin = (x[..., time - size :, :] for x in rotary)
        last["k"] = _turned(last["k"], (cos, sin))
        last |= {name: x.expand(batch, -1, -1) for name, x in (("cos", cos), ("sin", sin))}
    # Token j is at position j % size; one step of the host where they lie so already.
    shift = time % max(size, 1)
    rings = {}
    for name, x in last.items():
        x = x.transpose(1, 2) if x.dim() == 4 else x
        rings[name] = x.roll(shift, -2) if shift else x.clone(memory_format=torch.contiguous_format)
    seen = torch.full((batch,), time, device=k.device)
    return NHAState(*_memory(final, batch, k, v, g), seen=seen, window=window, delay=delay, **rings)


def _memory(final: Tensor | None, count: int, k: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """The slots' keys and values [N, H, M, *] of the kernels' final [N, H, K + V, M]; zeros without one."""
    heads, slots, K, V = k.shape[2], g.shape[-1], k.shape[-1], v.shape[-1]
    if final is None:
        return tuple(torch.zeros(count, heads, slots, width, device=k.device) for width in (K, V))
    return tuple(x.transpose(-1, -2).contiguous() for x in final.split([K, V], -2))
