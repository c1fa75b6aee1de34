"""Gated slot attention: NHA's slots alone, each token entering them at once (arXiv 2409.07146). It has no window."""

from __future__ import annotations

from torch import Tensor

from models.batch import Batch
from models.cache_layers import RingLayer, Rows, StateLayer
from models.mixers.nha import GatedSlots


class Mixer(GatedSlots):
    """A softmax over the slots alone."""

    has_window = False

    @staticmethod
    def sums(config) -> bool:
        return False

    def new_cache(self, rows: Rows | None = None) -> StateLayer:
        return self.with_convolutions(RingLayer(rows is not None), rows is not None)

    def forward(self, hidden_states: Tensor, batch: Batch, cache=None, norm=None) -> Tensor:
        return self.out_of(self.attend(hidden_states, batch, cache, 0, norm), None if norm is None else hidden_states)

    def backend(self) -> str:
        """What the layer runs on."""
        return self.operator_backend()

    def state_bytes(self, batch_size: int, length: int, itemsize: int) -> int:
        """Bytes of the cache; it does not depend on `length`."""
        return self.state_bytes_at(0, batch_size, length, itemsize)
