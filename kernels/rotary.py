"""Rotary embedding in the rotate-half convention, and its inverse.

Legend: x [..., T, K]; cos, sin broadcastable to [..., T, K/2].

A turn is undone by its own angles, so slots can store un-rotated keys while a ring keeps only the turned ones. Some
rotary variants (YaRN) scale cos and sin; the inverse divides that scale out.
"""

from __future__ import annotations

import torch
from torch import Tensor


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x turned by the angles: (x1 cos - x2 sin, x2 cos + x1 sin), x1 and x2 the halves of the last dimension."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)


def turn_back(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The vector that `turn` turned into x. Where cos and sin are both zero (no token was there) the result is zero."""
    norm = cos.square() + sin.square()
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    return turn(x, cos / norm, -sin / norm)
