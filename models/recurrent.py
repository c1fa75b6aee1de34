"""What the mixers with a matrix for a state share: that state in the cache, and the gated norm at their end.

Legend: B rows, T time, H heads, K key, V value dimension of a head, W taps of short convolutions, D their channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.linear import resolve_backend
from kernels.tensor_state import TensorState
from models.cache_layers import Rows, StateLayer


@dataclass(frozen=True)
class RecurrentState(TensorState):
    """A layer's state: memory [N, H, K, V] fp32, and the last W - 1 inputs of its convolutions [N, W - 1, D], if any."""

    memory: Tensor
    tail: Tensor | None = None


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
