"""What every layer needs to know of a batch: where its tokens stand, and which of them are padding. Made once a forward.

Legend: B rows, T new tokens a row, S keys a row in all (cached ones included), N packed sequences, K head dimension.

Pads may stand anywhere (left, right, between a shared prefix and a question). Mixers with a state never see them: valid
tokens are packed together before the operator and spread out again after it. Sequences that come packed stay so.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass
class Batch:
    """cos, sin [B, T, K/2]. past: tokens a row already cached; a tensor of no dimension where the cache is of fixed shapes and
    not empty, and then S is its length. new: T. keys [B, S] bool: those that count, or None where all do. valid [B, T] bool, or
    None where no new token is a pad. bounds [N + 1] int32 of the sequences packed into the B * T tokens, or None where each row
    is one. aux_losses: where layers leave theirs, None where these are not wanted."""

    cos: Tensor
    sin: Tensor
    past: int | Tensor
    new: int
    keys: Tensor | None = None
    valid: Tensor | None = None
    bounds: Tensor | None = None
    aux_losses: list[Tensor] | None = None

    @cached_property
    def cu_seqlens(self) -> Tensor | None:
        """[N + 1] int32 bounds of the packed tokens, None where each row is one sequence without pads."""
        if self.valid is None:
            return self.bounds
        return torch.nn.functional.pad(self.valid.sum(-1).cumsum(0), (1, 0)).int()

    @cached_property
    def lengths(self) -> list[int] | None:
        """Tokens of each sequence that came packed, on the host; None where none did."""
        return None if self.bounds is None else self.bounds.diff().tolist()

    @cached_property
    def unpadded(self) -> int:
        """New tokens a row after the last place at which any row has a pad."""
        if self.valid is None:
            return self.new
        return self.new - int((~self.valid.all(0) * torch.arange(1, self.new + 1, device=self.valid.device)).max())

    @cached_property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """(cos, sin) as the operator takes them: [B, T, K/2], or [total, K/2] for packed tokens."""
        # Contiguous once here, or every layer's kernels would copy them.
        cos, sin = (self.pack(x).contiguous() for x in (self.cos, self.sin))
        return (cos, sin) if self.cu_seqlens is None else (cos[0], sin[0])

    def pack(self, x: Tensor) -> Tensor:
        """x [B, T, ...] -> [1, total, ...] of the valid tokens; x itself where each row is one sequence without pads."""
        if self.valid is not None:
            return x[self.valid][None]
        return x if self.bounds is None else x.flatten(0, 1)[None]

    def spread(self, x: Tensor) -> Tensor:
        """The inverse of `pack`, with zeros at the pads."""
        rows = self.cos.shape[0]
        if self.valid is None:
            return x if self.bounds is None else x[0].unflatten(0, (rows, self.new))
        out = x.new_zeros(rows, self.new, *x.shape[2:])
        out[self.valid] = x[0]
        return out

    @cached_property
    def attends(self) -> Tensor | None:
        """[B or 1, 1, T, S] bool for softmax over all keys; None where plain causal (or a single query) says the same.

        A pad attends to itself, so that no row of the softmax is empty; nothing attends to it.
        """
        if self.keys is None and (self.new == 1 or (isinstance(self.past, int) and self.past == 0)):
            return None
        total = self.past + self.new if self.keys is None else self.keys.shape[1]
        device = self.cos.device
        query, key = self.past + torch.arange(self.new, device=device)[:, None], torch.arange(total, device=device)
        causal = (key <= query)[None, None]
        if self.keys is None:
            return causal
        return (causal & self.keys[:, None, None]) | (key == query)


def sequence_bounds(shape, device, position_ids, cu_seqlens, mask, cache) -> Tensor | None:
    """[N + 1] int32 of the sequences packed into rows of `shape` (B, T), or None where each row is one sequence.

    Positions alone can say so only where nothing was cached and nothing is padding, since both give positions of their own.
    ValueError for packed sequences with a mask or a cache, or bounds that do not go from 0 to B * T (their values are checked
    where they lie on the CPU: elsewhere that would wait for the device).
    """
    rows, new = shape
    if cu_seqlens is not None:
        if mask is not None or cache is not None:
            raise ValueError(f"packed sequences were given with {'a cache' if mask is None else 'pads'}; wanted neither")
        bounds = cu_seqlens.flatten().int()
        if bounds.device.type == "cpu":
            given = bounds.tolist()
            if len(given) < 2 or given[0] != 0 or given[-1] != rows * new or min(bounds.diff().tolist()) < 1:
                raise ValueError(f"cu_seqlens is {given}; wanted ascending bounds from 0 to {rows * new}, the number of tokens")
        return bounds.to(device)
    if position_ids is None or mask is not None or cache is not None or new == 1:
        return None
    starts = (position_ids == 0).expand(rows, -1).clone()
    starts[:, 0] = True
    found = starts.flatten().nonzero().flatten()
    if len(found) == rows:
        return None
    return torch.cat([found, found.new_tensor([rows * new])]).int()


def positions(rows, new, past, mask, valid, bounds, fixed, device) -> Tensor:
    """[B, T] or [1, T] int64: the tokens before each new one in its sequence, pads left out.

    mask [B, past + T] or None; valid, bounds, past as `Batch` has them; fixed: the `Rows` of a cache of fixed shapes, or None.
    """
    if bounds is not None:
        step = torch.arange(rows * new, device=device)
        first = torch.repeat_interleave(bounds[:-1].long(), bounds.diff().long(), output_size=rows * new)
        return (step - first).view(rows, new)
    if fixed is not None:
        ahead = torch.arange(new, device=device)[None] if valid is None else (valid.cumsum(-1) - 1).clamp(min=0)
        return fixed.seen[:, None] + ahead
    if mask is None:
        return torch.arange(past, past + new, device=device)[None]
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, past:]
