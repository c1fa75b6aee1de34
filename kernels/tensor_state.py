"""What the states of all layers share: tensors by their names, whose first dimension is a sequence's."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor


class TensorState:
    """What a dataclass with tensors [N, ...] among its fields, None where there is none, needs to be a layer's state."""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by its field's name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def index_select(self, index: Tensor) -> TensorState:
        """The state of sequences `index` [N'] (int64), in that order; repeats allowed (beams, shared prefixes)."""
        return replace(self, **{name: t.index_select(0, index.to(t.device)) for name, t in self.tensors().items()})

    def to(self, device: torch.device | str) -> TensorState:
        """The state on another device."""
        return replace(self, **{name: t.to(device) for name, t in self.tensors().items()})
