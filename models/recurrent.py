"""What the mixers with a matrix for a state share: that state in the cache, their options, and the gated norm at their end.

Legend: B rows, T time, H heads, K key, V value dimension of a head, W taps of a short convolution, D its channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.linear import resolve_backend
from kernels.short_conv import short_convolution
from models.cache_layers import Rows, StateLayer


@dataclass(frozen=True)
class RecurrentState:
    """A layer's state: memory [N, H, K, V] fp32, and the last W - 1 inputs of its convolutions [N, W - 1, D], if any."""

    memory: Tensor
    tail: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by its field's name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def nbytes(self) -> int:
        """Bytes of all tensors held."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def index_select(self, index: Tensor) -> RecurrentState:
        """The state of sequences `index` [N'], in that order; repeats allowed."""
        return RecurrentState(**{name: t.index_select(0, index.to(t.device)) for name, t in self.tensors().items()})

    def to(self, device: torch.device | str) -> RecurrentState:
        """The state on another device."""
        return RecurrentState(**{name: t.to(device) for name, t in self.tensors().items()})


def options_of(config, name: str, kind: type):
    """The options of the mixer `name`: a `kind` (a dataclass) from config.mixer_options; ValueError for an unknown one, and one
    that is no positive number."""
    given = config.mixer_options.get(name, {})
    known = [f.name for f in fields(kind)]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"mixer_options[{name!r}] has {', '.join(map(repr, unknown))}; wanted any of {', '.join(known)}")
    whole = [f.name for f in fields(kind) if f.type in (int, "int")]
    for key, value in given.items():
        number = isinstance(value, int if key in whole else int | float) and not isinstance(value, bool)
        if not (number and 0 < value < math.inf):
            wanted = "an integer" if key in whole else "a number"
            raise ValueError(f"mixer_options[{name!r}][{key!r}] is {value!r}; wanted {wanted} > 0")
    return kind(**given)


class RecurrentMixer(nn.Module):
    """A mixer without a window, whose state is a matrix a head (`state_shape` [H, K, V]) and a tail of convolution inputs."""

    has_window = False
    conv_channels = 0
    conv_size = 1

    def __init__(self, config, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx

    def new_cache(self, rows: Rows | None = None) -> StateLayer:
        """An empty cache layer; of fixed shapes where `rows` is given."""
        return StateLayer(rows is not None)

    def backend(self) -> str:
        """What the layer's operator runs on."""
        weight = next(self.parameters())
        return resolve_backend("auto", weight.device, weight.dtype)

    def state_elements(self, length: int) -> int:
        """As of `models.mixers`: the matrices, and the inputs that convolutions keep."""
        return math.prod(self.state_shape) + (self.conv_size - 1) * self.conv_channels

    def state_bytes(self, batch_size: int, length: int, itemsize: int) -> int:
        """Bytes of the cache; it does not depend on `length`."""
        heads, key_dim, value_dim = self.state_shape
        return batch_size * (heads * key_dim * value_dim * 4 + (self.conv_size - 1) * self.conv_channels * itemsize)


class ShortConvolution(nn.Module):
    """Filters [D, 1, W] under the names that checkpoints give them, followed by SiLU."""

    def __init__(self, channels: int, size: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        bound = size**-0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None, state: Tensor | None, keep: bool) -> tuple[Tensor, Tensor | None]:
        """x [B, T, D] -> (the same shape, state or None)."""
        y, after = short_convolution(
            x, self.weight[:, 0], self.bias, cu_seqlens=cu_seqlens, state=state, return_state=keep
        )  # fmt: skip
        return F.silu(y), after


class GatedNorm(nn.Module):
    """RMSNorm over the last dimension, times the gate's SiLU."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """x and gate of one shape [..., width]."""
        y = F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps) * F.silu(gate.float())
        return y.to(gate.dtype)
