"""The Triton backend's entry: lays the arguments out for the kernels, and joins forward and backward for autograd.

Legend: N sequences, B, T as given, H key-value heads, HQ query heads, K, V head dimensions, M slots, D = K + V, R ring.

Kernels see flat tensors [rows, heads, dim]. Going on from a state, the ring's R tokens stand before each sequence's new ones,
so one index serves both: token j of a sequence (j < 0 in the ring) is at row ``first + (n + 1) * R + j``.

    from kernels import nha_attention
    out, state = nha_attention(q, k, v, g, window=64, backend="triton")
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property

import torch
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.nha.state import NHAState, advance_ring
from kernels.nha.triton.backward import gradients
from kernels.nha.triton.forward import write_outputs
from kernels.nha.triton.plan import Plan, Tiles, choose_tiles, count_chunks, make_plan
from kernels.nha.triton.states import segment_states, store_states
from kernels.nha.triton.stream import stream_outputs, streams
from kernels.rotary import turn, turn_back

# Further than any token: a window of None.
EVERYTHING = 1 << 30
# Tokens from which a window is gone through in the larger tiles.
WIDE = 256


def refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why these inputs cannot be taken, or None."""
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"wants a CUDA device and q is on {device}; use 'chunked', or set TRITON_INTERPRET=1 to interpret the kernels"
    if dtype == torch.float64:
        return "takes fp16, bf16 and fp32; use 'chunked' or 'recurrent' for fp64"
    return None


@dataclass(frozen=True)
class Settings:
    """What a call is besides its tensors; packed: the number of sequences in the pack, or 0."""

    batch: int
    time: int
    packed: int
    window: int
    delay: int
    ring: int
    scale: float
    slots: bool
    sink: bool
    turn_k: bool
    angles_by_row: bool
    with_lse: bool
    store: bool


@dataclass(frozen=True)
class Call:
    """A call's flat tensors: q, slot_q [rows, HQ, K]; k, slot_k, v, g [rows, H, *]; bias [HQ]; first [N, H, D, M] fp32."""

    settings: Settings
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    slot_q: Tensor
    slot_k: Tensor
    bias: Tensor | None
    cos: Tensor | None
    sin: Tensor | None
    seen: Tensor | None
    cu_seqlens: Tensor | None
    own_q: bool
    own_k: bool

    window = property(lambda self: self.settings.window)
    delay = property(lambda self: self.settings.delay)
    ring = property(lambda self: self.settings.ring)
    scale = property(lambda self: self.settings.scale)
    H = property(lambda self: self.k.shape[1])
    G = property(lambda self: self.q.shape[1] // self.k.shape[1])

    @cached_property
    def tiles(self) -> Tiles:
        return tiles_of(self.q, self.k, self.v, self.g, self.cos, self.settings.window)

    @cached_property
    def plan(self) -> Plan:
        s = self.settings
        programs, fills = self.H, 0
        if self.streams:
            programs, fills = self.H * -(-self.G // self.tiles.GB), 8 // self.tiles.warps
        return make_plan(s.batch, s.time, self.cu_seqlens, self.tiles.C, self.tiles.KB, s.ring, programs, fills, self.q.device)

    @cached_property
    def streams(self) -> bool:
        """Whether `stream` makes the outputs."""
        return streams(self)

    @staticmethod
    def described(x: Tensor, box: list[int]) -> TensorDescriptor:
        """A descriptor of contiguous x for copies of `box`."""
        return TensorDescriptor(x, list(x.shape), list(x.stride()), box)

    def rows_of_head(self, x: Tensor, rows: int) -> TensorDescriptor:
        """A descriptor of x [rows, H, D] as [rows, H * D], for copies of `rows` rows of one head."""
        return self.described(x.flatten(1), [rows, x.shape[-1]])

    @cached_property
    def constants(self) -> dict:
        """Compile-time arguments that the kernels share."""
        s, tiles, kind = self.settings, self.tiles, self.q.dtype
        return {
            "H": self.H, "G": self.G, "K": self.q.shape[-1], "V": self.v.shape[-1], "M": self.g.shape[-1],
            "C": tiles.C, "GB": tiles.GB, "MB": tiles.MB, "KP": tiles.KP, "VP": tiles.VP,
            # Split decays need more range than fp16 has; bf16 has it, and tf32 keeps fp16's precision.
            "WD": tl.bfloat16 if kind == torch.bfloat16 else tl.float32, "PREC": self.precision,
            # Larger exponents cost fp32 its last digits before they overflow.
            "LIMIT": 58.0 if kind == torch.float32 else 100.0,
            "PIECES": 0 if kind == torch.float32 else {torch.bfloat16: 1, torch.float16: 2}.get(self.g.dtype, 3),
            "TURN_Q": self.cos is not None, "TURN_K": s.turn_k, "ANGLES_BY_ROW": s.angles_by_row, "SLOTS": s.slots,
            "BIAS": self.bias is not None, "SINK": s.sink, "SEEN": self.seen is not None,
        }  # fmt: skip

    @property
    def precision(self) -> str:
        return "ieee" if self.q.dtype == torch.float32 else "tf32"


def tiles_of(q: Tensor, k: Tensor, v: Tensor, g: Tensor, cos: Tensor | None, window: int) -> Tiles:
    """Tile sizes for flat tensors."""
    sizes = q.shape[1] // k.shape[1], g.shape[-1], q.shape[-1], v.shape[-1]
    return choose_tiles(*sizes, q.dtype, cos is not None, window >= WIDE)


def _forward(q, k, v, g, slot_q, slot_k, bias, first, cos, sin, seen, cu_seqlens, *settings):
    """The operator `nha::forward`: out [rows, HQ, V], final [N, H, D, M], and what the backward needs (see `_outputs`)."""
    own = (slot_q is not None, slot_k is not None)
    settings = Settings(*settings)
    slot_q, slot_k = slot_q if own[0] else q, slot_k if own[1] else k
    call = Call(settings, q, k, v, g, slot_q, slot_k, bias, cos, sin, seen, cu_seqlens, *own)
    out, final, lse, lse_slots, lse_window, states, totals, flags = found = _outputs(q, k, v, g, cos, cu_seqlens, settings)
    written = (out, lse, lse_slots, lse_window) if settings.with_lse else (out, lse, None, None)
    if settings.slots:
        starts = segment_states(call, first, totals, flags, final)
        if call.streams:
            stream_outputs(call, starts, totals, written)
        store_states(call, starts, totals, flags, states, flagged=call.streams and not settings.store)
    if not call.streams:
        write_outputs(call, states, flags, written, exact=False)
    if settings.slots:
        write_outputs(call, states, flags, written, exact=True)
    return found


def _outputs(q, k, v, g, cos, cu_seqlens, settings: Settings):
    """What `nha::forward` returns, not yet written: out [rows, HQ, V]; final [N, H, D, M], lse [rows, HQ] in units of log 2,
    lse_slots, lse_window [rows, HQ] (none unless wanted), fp32; states [chunks, H, D, M]; totals [chunks, H, M] fp32;
    flags [chunks, H, blocks of slots] int32."""
    tiles = tiles_of(q, k, v, g, cos, settings.window)
    rows, HQ = q.shape[:2]
    H, M, D = k.shape[1], g.shape[-1], q.shape[-1] + v.shape[-1]
    N = settings.packed or settings.batch
    chunks = count_chunks(settings.batch, settings.time, settings.packed, tiles.C) if settings.slots else 0
    wanted = rows if settings.with_lse else 0
    single = {"dtype": torch.float32, "device": q.device}
    kind = torch.bfloat16 if q.dtype == torch.bfloat16 else torch.float32
    # Chunks that a pack has to spare are in no segment, so that nothing flags them.
    make_flags = torch.zeros if settings.packed else torch.empty
    return (
        q.new_empty(rows, HQ, v.shape[-1]),
        torch.empty(N if settings.slots else 0, H, D, M, **single),
        torch.empty(rows, HQ, **single),
        torch.empty(wanted, HQ, **single),
        torch.empty(wanted, HQ, **single),
        torch.empty(chunks, H, D, M, dtype=kind, device=q.device),
        torch.empty(chunks, H, M, **single),
        make_flags(chunks, H, -(-M // tiles.MB), dtype=torch.int32, device=q.device),
    )


def _backward(
    q, k, v, g, slot_q, slot_k, bias, first, cos, sin, seen, cu_seqlens, out, lse, states, totals, flags, d_out, d_final,
    *settings,
):  # fmt: skip
    """The operator `nha::backward`: gradients of q, k, v, g, slot_q, slot_k, bias and first, empty where there is none."""
    own = (slot_q is not None, slot_k is not None)
    slot_q, slot_k = slot_q if own[0] else q, slot_k if own[1] else k
    call = Call(Settings(*settings), q, k, v, g, slot_q, slot_k, bias, cos, sin, seen, cu_seqlens, *own)
    found = gradients(call, states, totals, flags, out, lse, d_out.contiguous(), d_final.contiguous())
    return tuple(q.new_empty(0) if x is None else x for x in found)


def _backward_fake(q, k, v, g, slot_q, slot_k, bias, first, *_):
    same = lambda x: q.new_empty(0) if x is None else torch.empty_like(x)  # noqa: E731
    final = q.new_empty(0) if first is None else torch.empty_like(first)
    return (*(torch.empty_like(x) for x in (q, k, v, g)), same(slot_q), same(slot_k), same(bias), final)


def _keep(ctx, inputs, output):
    out, _, lse, *_, states, totals, flags = output
    ctx.save_for_backward(*inputs[:12], out, lse, states, totals, flags)
    ctx.settings = inputs[12:]
    ctx.mark_non_differentiable(*output[2:])


def _differentiate(ctx, d_out, d_final, *_):
    saved = ctx.saved_tensors
    found = torch.ops.nha.backward(*saved, d_out, d_final, *ctx.settings)
    needed = (x if wanted else None for x, wanted in zip(found, ctx.needs_input_grad, strict=False))
    return (*needed, *[None] * (len(ctx.needs_input_grad) - len(found)))


_TENSORS = (
    "Tensor q, Tensor k, Tensor v, Tensor g, Tensor? slot_q, Tensor? slot_k, Tensor? bias, Tensor? first, "
    "Tensor? cos, Tensor? sin, Tensor? seen, Tensor? cu_seqlens"
)
_SETTINGS = (
    "SymInt batch, SymInt time, SymInt packed, SymInt window, SymInt delay, SymInt ring, float scale, "
    "bool slots, bool sink, bool turn_k, bool angles_by_row, bool with_lse, bool store"
)
_library = torch.library.Library("nha", "FRAGMENT")
_library.define(f"forward({_TENSORS}, {_SETTINGS}) -> ({', '.join(['Tensor'] * 8)})")
_library.define(
    f"backward({_TENSORS}, Tensor out, Tensor lse, Tensor states, Tensor totals, Tensor flags, Tensor d_out, Tensor d_final, "
    f"{_SETTINGS}) -> ({', '.join(['Tensor'] * 8)})"
)
_library.impl("forward", _forward, "CompositeExplicitAutograd")
_library.impl("backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake(
    "nha::forward",
    lambda q, k, v, g, slot_q, slot_k, bias, first, cos, sin, seen, cu_seqlens, *settings: _outputs(
        q, k, v, g, cos, cu_seqlens, Settings(*settings)
    ),
    lib=_library,
)
torch.library.register_fake("nha::backward", _backward_fake, lib=_library)
torch.library.register_autograd("nha::forward", _differentiate, setup_context=_keep, lib=_library)


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.flatten(0, 1).contiguous()


def triton_nha(
    q, k, v, g, *, window, delay, rotary, slot_q, slot_k, slot_bias, scale, empty_slots, cu_seqlens, state, with_lse=False
):
    """The operator. Arguments as checked by `nha_attention`; `delay` and `scale` resolved.

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
    if state is not None:
        seen = state.seen
        first = torch.cat([state.slot_k, state.slot_v], -1).float().transpose(-1, -2).contiguous()
    tensors = _flat(q), near_k, values, decays, _flat(slot_q), raw_k, slot_bias, first
    store = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    out, final, _, lse_slots, lse_window, *_ = torch.ops.nha.forward.default(
        *tensors, cos, sin, seen, cu_seqlens, batch, time, packed,
        EVERYTHING if window is None else min(window, EVERYTHING), min(delay, EVERYTHING), ring, scale,
        window is not None, empty_slots == "sink", rotary is not None and not ring,
        rotary is not None and (cos.dim() == 3 or packed > 0), with_lse, store,
    )  # fmt: skip
    shaped = lambda x: x.view(batch, time, *x.shape[1:])  # noqa: E731
    lse = (shaped(lse_slots), shaped(lse_window)) if with_lse else None

    def after() -> NHAState:
        slots = None if window is None else final
        return _state_after(k, v, g, slot_k, rotary, slots, window, delay, cu_seqlens, state)

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
    device, heads, slots = k.device, k.shape[2], g.shape[-1]
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

    tokens = {"v": v, "g": g}
    if slot_k is not None:
        tokens["raw_k"] = slot_k
    if rotary is not None:
        rows = [x if x.dim() == 3 else x.expand(*k.shape[:2], -1) for x in rotary]
        tokens |= dict(zip(("cos", "sin"), rows, strict=True))
    rings = {name: ring(name, x) for name, x in tokens.items()}
    near = k.flatten(0, 1)[index]
    if rotary is not None:
        near = _turned(near, tuple(tokens[name].flatten(0, 1)[index] for name in ("cos", "sin")))
    rings["k"] = advance_ring(old.get("k"), near.transpose(1, 2), seen + lengths - tail, tail, size)
    if final is None:
        final = torch.zeros(len(seen), heads, k.shape[-1] + v.shape[-1], slots, dtype=torch.float32, device=device)
    memory_k, memory_v = (x.transpose(-1, -2).contiguous() for x in final.split([k.shape[-1], v.shape[-1]], -2))
    return NHAState(memory_k, memory_v, seen=seen + lengths, window=window, delay=delay, **rings)
