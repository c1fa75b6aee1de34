"""What every layer needs to know of a batch: where its tokens stand, and which of them are padding. Made once a forward.

Legend: B rows, T new tokens a row, S tokens a row in all (cached ones included), K head dimension.

Pads may stand anywhere (left, right, between a shared prefix and a question). Mixers with a state never see them: valid
tokens are packed together before the operator and spread out again after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass
class Batch:
    """cos, sin [B, T, K/2]; mask [B, S] bool, or None where every token counts; past: tokens a row already cached."""

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    past: int
    new: int

    @cached_property
    def valid(self) -> Tensor | None:
        """[B, T] bool, None where no new token is a pad."""
        if self.mask is None:
            return None
        valid = self.mask[:, self.past :]
        return None if bool(valid.all()) else valid

    @cached_property
    def cu_seqlens(self) -> Tensor | None:
        """[B + 1] int32 bounds of the packed valid tokens, None where no new token is a pad."""
        if self.valid is None:
            return None
        return torch.nn.functional.pad(self.valid.sum(-1).cumsum(0), (1, 0)).int()

    @cached_property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """(cos, sin) as the operator takes them: [B, T, K/2], or [total, K/2] for the packed valid tokens."""
        return self.pack_rows(self.cos), self.pack_rows(self.sin)

    def pack_rows(self, x: Tensor) -> Tensor:
        """x [B, T, D] -> [total, D] of the valid tokens; x itself where no new token is a pad."""
        return x if self.valid is None else x[self.valid]

    def pack(self, x: Tensor) -> Tensor:
        """x [B, T, ...] -> [1, total, ...] of the valid tokens; x itself where no new token is a pad."""
        return x if self.valid is None else x[self.valid][None]

    def spread(self, x: Tensor) -> Tensor:
        """The inverse of `pack`, with zeros at the pads."""
        if self.valid is None:
            return x
        out = x.new_zeros(*self.valid.shape, *x.shape[2:])
        out[self.valid] = x[0]
        return out

    @cached_property
    def attends(self) -> Tensor | None:
        """[B or 1, 1, T, S] bool for softmax over all keys; None where plain causal (or a single query) says the same.

        A pad attends to itself, so that no row of the softmax is empty; nothing attends to it.
        """
        total = self.past + self.new
        if self.mask is None and (self.past == 0 or self.new == 1):
            return None
        device = self.cos.device
        query, key = torch.arange(self.past, total, device=device)[:, None], torch.arange(total, device=device)
        causal = (key <= query)[None, None]
        if self.mask is None:
            return causal
        return (causal & self.mask[:, None, None]) | (key == query)
