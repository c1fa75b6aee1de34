"""Packed sequences [1, total, ...] to right-padded rows [N, T, ...] and back.

Right padding is harmless to a causal operator: a pad comes after everything that counts.

    layout = Packing(cu_seqlens); rows = layout.rows(x); again = layout.pack(rows)
"""

from __future__ import annotations

import torch
from torch import Tensor


class Packing:
    """Where each token of a pack stands in right-padded rows. cu_seqlens [N + 1] from 0 to total."""

    def __init__(self, cu_seqlens: Tensor):
        cu = cu_seqlens.long()
        self.lengths = cu.diff()
        self.longest = int(self.lengths.max())
        step = torch.arange(self.longest, device=cu.device)
        self.mask = step < self.lengths[:, None]
        self.index = torch.where(self.mask, cu[:-1, None] + step, torch.zeros_like(step))

    def rows(self, x: Tensor) -> Tensor:
        """x [1, total, ...] -> [N, T, ...], zeros after each row's end."""
        mask = self.mask.view(*self.mask.shape, *[1] * (x.dim() - 2))
        return torch.where(mask, x[0][self.index], x.new_zeros(()))

    def pack(self, rows: Tensor) -> Tensor:
        """rows [N, T, ...] -> [1, total, ...]."""
        return rows[self.mask][None]
