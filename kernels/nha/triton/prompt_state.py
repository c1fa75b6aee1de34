"""The state after prompts of one length, from nothing: their last tokens turned round into rings, and the slots, by one kernel
in the place of some twenty, since short prompts are bound by the host's launches.

Legend: N sequences, T tokens, H key-value heads, K, V head dimensions, M slots, D = K + V, R ring.

    NHAState(**tensors_after(k, v, g, None, (cos, sin), final, 64), window=64, delay=64)
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.nha.triton.common import columns
from kernels.nha.triton.counts import cdiv, power_of_2
from kernels.nha.triton.launch import launch

# Positions of a ring, slots, and dimensions of a slot that a program takes at a time.
POSITIONS, SLOTS, DIMENSIONS = 16, 32, 64


@triton.jit
def _copied(x, to, source, target, alive, D: tl.constexpr, DP: tl.constexpr):
    """Rows `source` of x [rows, D] into rows `target` of `to`."""
    column, is_column = columns(D, DP)
    is_there = alive[:, None] & is_column[None, :]
    tile = tl.load(x + source[:, None] * D + column[None, :], mask=is_there, other=0.0)
    tl.store(to + target[:, None] * D + column[None, :], tile, mask=is_there)


@triton.jit
def _transposed(final, to, start, slot, is_slot, target, D: tl.constexpr, M: tl.constexpr, BD: tl.constexpr):
    """Rows from `start` on of final [rows, M], D of them, as columns of the rows `target` of `to` [rows, D]."""
    for first in range(0, D, BD):
        d = first + tl.arange(0, BD)
        is_there = (d < D)[:, None] & is_slot[None, :]
        tile = tl.load(final + (start + d)[:, None] * M + slot[None, :], mask=is_there, other=0.0)
        tl.store(to + target[None, :] * D + d[:, None], tile, mask=is_there)


@triton.jit(do_not_specialize=["time", "size"])
def nha_kernel_prompt_state(
    k, v, g, raw_k, cos, sin, final, slot_k, slot_v, ring_k, ring_v, ring_g, seen, ring_raw, ring_cos, ring_sin, time, size,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, M: tl.constexpr,
    KP: tl.constexpr, VP: tl.constexpr, MP: tl.constexpr, BR: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
    TURN: tl.constexpr, ANGLES_BY_ROW: tl.constexpr, RAW: tl.constexpr, MEMORY: tl.constexpr,
):  # fmt: skip
    """A block of a head's ring, or behind these of its slots; heads one after the other."""
    blocks = (size + BR - 1) // BR
    of_head = tl.maximum(blocks + ((M + BM - 1) // BM if MEMORY else 0), 1)
    head, block = (tl.program_id(0) // of_head).to(tl.int64), tl.program_id(0) % of_head
    n, h = head // H, head % H
    if (block == 0) & (h == 0):
        tl.store(seen + n, time.to(tl.int64))
    if block < blocks:
        place = block * BR + tl.arange(0, BR)
        alive = place < size
        # Token j is at position j % size.
        token = time - size + (place + size - time % size) % size
        row, to = n * time + token, head * size + place
        source = row * H + h
        if TURN:
            half: tl.constexpr = K // 2
            column = tl.arange(0, KP // 2)
            is_there = alive[:, None] & (column < half)[None, :]
            angle = (row if ANGLES_BY_ROW else token)[:, None] * half + column[None, :]
            c, s = tl.load(cos + angle, mask=is_there, other=0.0), tl.load(sin + angle, mask=is_there, other=0.0)
            at = (n * size + place)[:, None] * half + column[None, :]
            if h == 0:
                tl.store(ring_cos + at, c, mask=is_there)
                tl.store(ring_sin + at, s, mask=is_there)
            c, s = c.to(tl.float32), s.to(tl.float32)
            first = tl.load(k + source[:, None] * K + column[None, :], mask=is_there, other=0.0).to(tl.float32)
            second = tl.load(k + source[:, None] * K + half + column[None, :], mask=is_there, other=0.0).to(tl.float32)
            turned = ring_k + to[:, None] * K + column[None, :]
            tl.store(turned, (first * c - second * s).to(ring_k.dtype.element_ty), mask=is_there)
            tl.store(turned + half, (second * c + first * s).to(ring_k.dtype.element_ty), mask=is_there)
        else:
            _copied(k, ring_k, source, to, alive, K, KP)
        _copied(v, ring_v, source, to, alive, V, VP)
        if M > 0:
            _copied(g, ring_g, source, to, alive, M, MP)
        if RAW:
            _copied(raw_k, ring_raw, source, to, alive, K, KP)
    elif MEMORY:
        slot = (block - blocks) * BM + tl.arange(0, BM)
        _transposed(final, slot_k, head * (K + V), slot, slot < M, head * M + slot, K, M, BD)
        _transposed(final, slot_v, head * (K + V) + K, slot, slot < M, head * M + slot, V, M, BD)


def _outputs(
    k: Tensor, v: Tensor, g: Tensor, raw_k: Tensor | None, cos: Tensor | None, sin: Tensor | None, final: Tensor | None,
    size: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """What `nha::prompt_state` returns, not yet written: slot_k [N, H, M, K] and slot_v fp32, zeros without `final`; k, v, g
    [N, H, R, *]; seen [N] int64; raw_k as k; cos, sin [N, R, K/2], with no elements where there is none."""
    count, _, heads, K = k.shape
    M, V = g.shape[-1], v.shape[-1]
    made = torch.zeros if final is None else torch.empty
    slots = (made(count, heads, M, width, dtype=torch.float32, device=k.device) for width in (K, V))
    rings = (x.new_empty(count, heads, size, x.shape[-1]) for x in (k, v, g))
    seen = torch.empty(count, dtype=torch.int64, device=k.device)
    raw = k.new_empty(0) if raw_k is None else raw_k.new_empty(count, heads, size, K)
    angles = (k.new_empty(0) if x is None else x.new_empty(count, size, K // 2) for x in (cos, sin))
    return (*slots, *rings, seen, raw, *angles)


def _prompt_state(
    k: Tensor, v: Tensor, g: Tensor, raw_k: Tensor | None, cos: Tensor | None, sin: Tensor | None, final: Tensor | None,
    size: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The operator `nha::prompt_state`: k, raw_k, v, g [N, T, H, *]; cos, sin [T, K/2] or [N, T, K/2]; final [N, H, D, M]."""
    found = _outputs(k, v, g, raw_k, cos, sin, final, size)
    (count, time, heads, K), V, M = k.shape, v.shape[-1], g.shape[-1]
    k, v, g, raw_k, cos, sin, final = (None if x is None else x.contiguous() for x in (k, v, g, raw_k, cos, sin, final))
    of_head = max(1, cdiv(size, POSITIONS) + (0 if final is None else cdiv(M, SLOTS)))
    launch(
        nha_kernel_prompt_state, (count * heads * of_head,), k, v, g, raw_k, cos, sin, final, *found, time, size,
        H=heads, K=K, V=V, M=M, KP=power_of_2(K), VP=power_of_2(V), MP=power_of_2(max(M, 1)),
        BR=POSITIONS, BM=SLOTS, BD=DIMENSIONS,
        TURN=cos is not None, ANGLES_BY_ROW=cos is not None and cos.dim() == 3, RAW=raw_k is not None, MEMORY=final is not None,
    )  # fmt: skip
    return found


def tensors_after(
    k: Tensor, v: Tensor, g: Tensor, raw_k: Tensor | None, rotary: tuple[Tensor, Tensor] | None, final: Tensor | None, size: int
) -> dict[str, Tensor]:
    """An NHAState's tensors by their names, without gradients. Arguments as of `_prompt_state`; size: R."""
    cos, sin = rotary or (None, None)
    found = torch.ops.nha.prompt_state(k, v, g, raw_k, cos, sin, final, size)
    there = {"raw_k": raw_k, "cos": cos, "sin": sin}
    names = ("slot_k", "slot_v", "k", "v", "g", "seen", *there)
    return {name: x for name, x in zip(names, found, strict=True) if there.get(name, x) is not None}


_library = torch.library.Library("nha", "FRAGMENT")
_library.define(
    "prompt_state(Tensor k, Tensor v, Tensor g, Tensor? raw_k, Tensor? cos, Tensor? sin, Tensor? final, SymInt size) -> "
    f"({', '.join(['Tensor'] * 9)})"
)
_library.impl("prompt_state", _prompt_state, "CompositeExplicitAutograd")
torch.library.register_fake("nha::prompt_state", _outputs, lib=_library)
