"""Caches that stay as they are: of one length however many tokens are decoded from them, their tensors at one address, so
that a CUDA graph can be replayed and every repeat is a step at the same context.

Legend: B rows, H key-value heads, S tokens of context, K head dimension.
"""

from __future__ import annotations

from torch import Tensor
from transformers.cache_utils import DynamicLayer

from models.cache import StateLayer


class HeldKeys(DynamicLayer):
    """Keys and values of S tokens [B, H, S, K], the decoded token's among them: it is written over the last ones."""

    def __init__(self, keys: Tensor, values: Tensor):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.keys[:, :, -1:] = key_states
        self.values[:, :, -1:] = value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] - 1

    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


def hold(layer: StateLayer, length: int) -> StateLayer:
    """The layer, from whose state every step starts, as of `length` tokens. What a step makes is dropped, layer by layer, so
    that two states are never held at once; one that works in place (`overwrite_state`) moves the state itself on.
    """
    layer.length = length
    layer.advance = lambda state, new: None
    return layer


def random_keys(batch: int, heads: int, length: int, head_dim: int, draw) -> HeldKeys:
    """Keys and values of `length` tokens drawn at random."""
    return HeldKeys(*(draw.normal(batch, heads, length, head_dim) for _ in range(2)))
