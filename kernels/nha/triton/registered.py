"""The Triton backend's operators as torch knows them: `nha::forward` and `nha::backward`, with fake forms and autograd.

Legend: N sequences, H key-value heads, HQ query heads, K, V head dimensions, M slots, D = K + V.

Nothing here reads a tensor on the host, so that the operators can be captured in a CUDA graph and compiled by `torch.compile`;
what a call is besides its tensors comes as plain numbers, and every shape follows from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import torch
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.nha.triton.backward import gradients
from kernels.nha.triton.forward import write_outputs
from kernels.nha.triton.plan import Plan, Tiles, choose_tiles, count_chunks, make_plan
from kernels.nha.triton.states import segment_states, store_states
from kernels.nha.triton.stream import programs_together, stream_outputs, streams

# Tokens from which a window is gone through in the larger tiles.
WIDE = 256


@dataclass(frozen=True)
class Settings:
    """What a call is besides its tensors; packed: the number of sequences in the pack, or 0."""

    batch: int
    time: int
    packed: int
    window: int
    delay: int
    ring: int
    slots: bool
    sink: bool
    turn_k: bool
    angles_by_row: bool
    with_lse: bool
    store: bool
    scale: float

    def arguments(self) -> tuple[list[int], float]:
        """As the operators take them. One list, for torch looks over an operator's arguments in a time that grows with the
        square of their number."""
        *numbers, scale = (getattr(self, field.name) for field in fields(self))
        return numbers, scale

    @classmethod
    def of(cls, numbers: list[int], scale: float) -> Settings:
        """Of the operators' arguments."""
        return cls(*numbers[:6], *(bool(x) for x in numbers[6:]), scale)


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
            programs, fills = self.H * -(-self.G // self.tiles.GB), programs_together(self)
        return make_plan(s.batch, s.time, self.cu_seqlens, self.tiles.C, self.tiles.KB, s.ring, programs, fills, self.q.device)

    @cached_property
    def _by_head(self) -> dict[tuple, TensorDescriptor]:
        return {}

    @cached_property
    def streams(self) -> bool:
        """Whether `stream` makes the outputs."""
        return streams(self)

    @staticmethod
    def described(x: Tensor, box: list[int]) -> TensorDescriptor:
        """A descriptor of contiguous x for copies of `box`."""
        return TensorDescriptor(x, list(x.shape), list(x.stride()), box)

    def rows_of_head(self, x: Tensor, rows: int) -> TensorDescriptor:
        """A descriptor of x [rows, H, D] as [rows, H * D], for copies of `rows` rows of one head. Made once: it costs the host
        more than all else that an argument does."""
        key = x.data_ptr(), rows, x.shape[-1]
        if key not in self._by_head:
            self._by_head[key] = self.described(x.flatten(1), [rows, x.shape[-1]])
        return self._by_head[key]

    @cached_property
    def constants(self) -> dict:
        """Compile-time arguments that the kernels share."""
        s, tiles, kind = self.settings, self.tiles, self.q.dtype
        return {
            "H": self.H, "G": self.G, "K": self.q.shape[-1], "V": self.v.shape[-1], "M": self.g.shape[-1],
            "C": tiles.C, "GB": tiles.GB, "MB": tiles.MB, "KP": tiles.KP, "VP": tiles.VP,
            # Split decays need more range than fp16 has; bf16 has it, and tf32 keeps fp16's precision.
            "WD": tl.bfloat16 if kind == torch.bfloat16 else tl.float32, "PREC": self.precision,
            "PIECES": 0 if kind == torch.float32 else {torch.bfloat16: 1, torch.float16: 2}.get(self.g.dtype, 3),
            "TURN_Q": self.cos is not None, "TURN_K": s.turn_k, "ANGLES_BY_ROW": s.angles_by_row, "SLOTS": s.slots,
            "BIAS": self.bias is not None, "SINK": s.sink, "SEEN": self.seen is not None,
        }  # fmt: skip

    @property
    def limit(self) -> float:
        """How far a chunk may decay, in powers of two, before it is flagged: larger exponents cost fp32 its last digits before
        they overflow."""
        return 58.0 if self.q.dtype == torch.float32 else 100.0

    @property
    def precision(self) -> str:
        return "ieee" if self.q.dtype == torch.float32 else "tf32"


def tiles_of(q: Tensor, k: Tensor, v: Tensor, g: Tensor, cos: Tensor | None, window: int) -> Tiles:
    """Tile sizes for flat tensors."""
    # Ints also where a compiler traces with symbols: heads and dimensions are fixed for a compiled call.
    sizes = (int(n) for n in (q.shape[1] // k.shape[1], g.shape[-1], q.shape[-1], v.shape[-1]))
    return choose_tiles(*sizes, q.dtype, cos is not None, bool(window >= WIDE))


def _forward(q, k, v, g, slot_q, slot_k, bias, first, cos, sin, seen, cu_seqlens, numbers, scale):
    """The operator `nha::forward`: out [rows, HQ, V], final [N, H, D, M], and what the backward needs (see `_outputs`)."""
    own = (slot_q is not None, slot_k is not None)
    settings = Settings.of(numbers, scale)
    slot_q, slot_k = slot_q if own[0] else q, slot_k if own[1] else k
    call = Call(settings, q, k, v, g, slot_q, slot_k, bias, cos, sin, seen, cu_seqlens, *own)
    out, final, lse, lse_slots, lse_window, states, totals, flags = found = _outputs(q, k, v, g, cos, cu_seqlens, settings)
    written = (out, lse, lse_slots, lse_window) if settings.with_lse else (out, lse, None, None)
    if settings.slots:
        # Chunks that a pack has to spare, the last ones, are in no segment.
        for x in (states, totals, flags) if settings.packed else ():
            x[-settings.packed :].zero_()
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
    return (
        q.new_empty(rows, HQ, v.shape[-1]),
        torch.empty(N if settings.slots else 0, H, D, M, **single),
        torch.empty(rows, HQ, **single),
        torch.empty(wanted, HQ, **single),
        torch.empty(wanted, HQ, **single),
        torch.empty(chunks, H, D, M, dtype=kind, device=q.device),
        torch.empty(chunks, H, M, **single),
        torch.empty(chunks, H, -(-M // tiles.MB), dtype=torch.int32, device=q.device),
    )


def _backward(
    q, k, v, g, slot_q, slot_k, bias, first, cos, sin, seen, cu_seqlens, out, lse, states, totals, flags, far_share, near_share,
    d_out, d_final, numbers, scale,
):  # fmt: skip
    """The operator `nha::backward`: gradients of q, k, v, g, slot_q, slot_k, bias and first, empty where there is none."""
    own = (slot_q is not None, slot_k is not None)
    slot_q, slot_k = slot_q if own[0] else q, slot_k if own[1] else k
    call = Call(Settings.of(numbers, scale), q, k, v, g, slot_q, slot_k, bias, cos, sin, seen, cu_seqlens, *own)
    shares, given = (far_share, near_share), (d_out.contiguous(), d_final.contiguous())
    *found, d_first = gradients(call, states, totals, flags, out, lse, shares, *given)
    found.append(None if first is None else d_first)
    return tuple(q.new_empty(0) if x is None else x for x in found)


def _backward_fake(q, k, v, g, slot_q, slot_k, bias, first, *_):
    same = lambda x: q.new_empty(0) if x is None else torch.empty_like(x)  # noqa: E731
    final = q.new_empty(0) if first is None else torch.empty_like(first)
    return (*(torch.empty_like(x) for x in (q, k, v, g)), same(slot_q), same(slot_k), same(bias), final)


def _share(d_part: Tensor | None, part: Tensor, lse: Tensor) -> Tensor:
    """What a part's log-sum-exp [rows, HQ] with gradient d_part adds to the gradient of its logits, over their weights in the
    whole softmax: d_part times the whole's mass over the part's. lse: the whole's, in units of log 2."""
    if d_part is None:
        return torch.zeros_like(lse)
    # A weight is nothing in fp32 where its part is less than this of the whole; and an empty part has no gradient.
    more = (lse * math.log(2) - part).clamp(max=85.0)
    return torch.where(part == -torch.inf, 0.0, d_part * more.exp())


class _Differentiable(torch.autograd.Function):
    """`nha::forward` with its gradients. What `torch.library.register_autograd` would make looks up each argument of the schema
    at every call, which takes the host as long as two launches."""

    @staticmethod
    def forward(ctx, *inputs):
        *inputs, keys = inputs
        output = _below_autograd(keys, *inputs)
        out, final, lse, lse_slots, lse_window, states, totals, flags = output
        ctx.save_for_backward(*inputs[:12], out, lse, states, totals, flags, lse_slots, lse_window)
        ctx.final = final.shape
        ctx.settings = inputs[12:]
        ctx.mark_non_differentiable(lse, states, totals, flags)
        # Or zeros as large as the states would be made for what has no gradient.
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx, d_out, d_final, _, d_slots, d_window, *__):
        *saved, lse_slots, lse_window = ctx.saved_tensors
        out, lse = saved[12:14]
        shares = (None, None)
        if Settings.of(*ctx.settings).with_lse and (d_slots is not None or d_window is not None):
            shares = _share(d_slots, lse_slots, lse), _share(d_window, lse_window, lse)
        d_out = torch.zeros_like(out) if d_out is None else d_out
        d_final = lse.new_zeros(ctx.final) if d_final is None else d_final
        found = torch.ops.nha.backward(*saved, *shares, d_out, d_final, *ctx.settings)
        needed = (x if wanted else None for x, wanted in zip(found, ctx.needs_input_grad, strict=False))
        return (*needed, *[None] * (len(ctx.needs_input_grad) - len(found)))


def _below_autograd(keys, *inputs):
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.nha.forward.default.redispatch(keys & torch._C._after_autograd_keyset, *inputs)


def _autograd(keys, *inputs):
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs[:12]):
        return _Differentiable.apply(*inputs, keys)
    return _below_autograd(keys, *inputs)


_TENSORS = (
    "Tensor q, Tensor k, Tensor v, Tensor g, Tensor? slot_q, Tensor? slot_k, Tensor? bias, Tensor? first, "
    "Tensor? cos, Tensor? sin, Tensor? seen, Tensor? cu_seqlens"
)
_SETTINGS = "SymInt[] numbers, float scale"
_library = torch.library.Library("nha", "FRAGMENT")
_library.define(f"forward({_TENSORS}, {_SETTINGS}) -> ({', '.join(['Tensor'] * 8)})")
_library.define(
    f"backward({_TENSORS}, Tensor out, Tensor lse, Tensor states, Tensor totals, Tensor flags, Tensor? far_share, "
    f"Tensor? near_share, Tensor d_out, Tensor d_final, {_SETTINGS}) -> ({', '.join(['Tensor'] * 8)})"
)
_library.impl("forward", _forward, "CompositeExplicitAutograd")
_library.impl("backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake(
    "nha::forward",
    lambda q, k, v, g, slot_q, slot_k, bias, first, cos, sin, seen, cu_seqlens, *settings: _outputs(
        q, k, v, g, cos, cu_seqlens, Settings.of(*settings)
    ),
    lib=_library,
)
torch.library.register_fake("nha::backward", _backward_fake, lib=_library)
_library.impl("forward", _autograd, "Autograd", with_keyset=True)
