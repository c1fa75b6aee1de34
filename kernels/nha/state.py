"""What NHA keeps between two calls: the slots, and the last tokens in a ring.

Legend: N sequences, H key-value heads, M slots, R ring size, K and V head dimensions, w window.

Token j of a sequence lies at position ``j % R`` of the ring, so a decode step writes one position and moves nothing.
R is max(window, slot_delay), or less while fewer tokens have been seen. A ring position no token has reached yet holds
zeros, which are harmless: a log decay of zero neither decays nor writes.

    state = nha_attention(q, k, v, g, 64, return_state=True)[1]
    state.nbytes(), state.seen
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.tensor_state import TensorState

RING_FIELDS = ("k", "v", "g", "raw_k", "cos", "sin")


@dataclass(frozen=True)
class NHAState(TensorState):
    """State of N sequences after some tokens. Its size does not depend on how many (window None apart, which keeps all).

    slot_k [N, H, M, K], slot_v [N, H, M, V]: the slots, fp32 (fp64 where the inputs are).
    k [N, H, R, K]: the ring's keys as the window meets them (turned by the rotary embedding); v [N, H, R, V];
    g [N, H, R, M]: the log decays with which they will enter the slots.
    raw_k [N, H, R, K] or None: what will enter the slots, kept only where it is not `k` turned back (`slot_k` was given).
    cos, sin [N, R, K/2] or None: the rotary angles that turned `k`.
    seen [N] int64: tokens seen by each sequence.
    window, delay: the settings it was made under; going on under others is refused.
    """

    slot_k: Tensor
    slot_v: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    seen: Tensor
    window: int | None
    delay: int
    raw_k: Tensor | None = None
    cos: Tensor | None = None
    sin: Tensor | None = None

    @property
    def ring_size(self) -> int:
        """R, in tokens."""
        return self.k.shape[2]

    def grown(self, size: int) -> NHAState:
        """The state with a ring of at least `size` positions, where R is less because fewer tokens have been seen."""
        more = size - self.ring_size
        if more <= 0:
            return self
        rings = {name: getattr(self, name) for name in RING_FIELDS}
        return replace(self, **{name: F.pad(x, (0, 0, 0, more)) for name, x in rings.items() if x is not None})

    def why_not_before(self, count: int) -> str | None:
        """Why the state of `count` >= 1 tokens ago cannot be had from this one, as the rest of a sentence; None where it can.

        On a GPU this waits for it.
        """
        least, most = (int(x) for x in self.seen.aminmax())
        if count > least:
            return f"has seen {least} tokens of a sequence"
        if self.slot_k.shape[2] and self.window is not None and most > self.delay:
            return "has slots, into which tokens have been merged"
        if self.window is not None and most > self.ring_size and count + self.window - 1 > self.ring_size:
            return f"holds the last {self.ring_size} tokens, and a window of {self.window} would reach {count} further back"
        return None

    def before(self, count: int, size: int | None = None) -> NHAState:
        """The state of `count` tokens ago, which `why_not_before` has found possible, with a ring of `size` positions (None: as
        many as it would have had, or as are left of it)."""
        seen = self.seen - count
        if size is None:
            size = min(int(seen.max()), self.ring_size - count)
            size = size if self.window is None else min(max(self.window, self.delay), size)
        kept, first = torch.full_like(seen, self.ring_size - count), self.seen - self.ring_size
        rings = {name: advance_ring(None, x, first, kept, size) for name, x in self.chronological().items()}
        return replace(self, seen=seen, **rings)

    def chronological(self) -> dict[str, Tensor]:
        """The ring's tensors with the newest token last (time is dim -2); positions never reached come first, as zeros."""
        size = self.ring_size
        position = self.seen[:, None] - size + torch.arange(size, device=self.seen.device)
        order = position % max(size, 1)
        out = {}
        for name in RING_FIELDS:
            ring = getattr(self, name)
            if ring is not None:
                index = order if ring.dim() == 3 else order[:, None]
                out[name] = ring.gather(-2, index[..., None].expand(ring.shape))
        return out


def advance_ring(chronological: Tensor | None, new: Tensor, seen: Tensor, lengths: Tensor, size: int) -> Tensor:
    """A ring of `size` positions after `new` tokens, right-padded, time at dim -2.

    chronological: the ring before, newest last (or None at a start), [N, ..., R, D]; new [N, ..., T, D]; seen [N] before;
    lengths [N].
    """
    history = new if chronological is None else torch.cat([chronological.to(new.dtype), new], dim=-2)
    before = history.shape[-2] - new.shape[-2]
    total = seen + lengths
    # Ring position p holds the newest token j < total with j % size == p.
    place = torch.arange(size, device=seen.device)
    token = place + (total[:, None] - 1 - place).div(max(size, 1), rounding_mode="floor") * size
    index = token - seen[:, None] + before
    valid = (token >= 0) & (index >= 0)
    shape = (seen.shape[0], *[1] * (new.dim() - 3), size, 1)
    taken = history.gather(
        -2, index.clamp(0, max(history.shape[-2] - 1, 0)).view(shape).expand(*new.shape[:-2], size, new.shape[-1])
    )
    return torch.where(valid.view(shape), taken, taken.new_zeros(()))
