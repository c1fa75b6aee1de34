"""Short causal convolutions of a layer's projections, and the inputs that they keep for the tokens to come.

Legend: B rows, T time, N sequences, D channels, W taps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from kernels.short_conv import short_convolution
from kernels.tensor_state import TensorState
from models.cache_layers import StateLayer


@dataclass(frozen=True)
class ConvolutionOptions:
    """Of the mixers of keys and values. conv_size: taps, in tokens, of a convolution with SiLU on q, k and v each, before
    activations, norms and angles, as the layers' authors have it (arXiv 2409.07146, 2510.07019: 4, off by default); 1: none."""

    conv_size: int = 1


@dataclass(frozen=True)
class Tail(TensorState):
    """inputs [N, W - 1, D]: the last inputs of a layer's convolutions, zeros before the first token."""

    inputs: Tensor


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
        return short_convolution(
            x, self.weight.squeeze(1), self.bias, silu=True, cu_seqlens=cu_seqlens, state=state, return_state=keep
        )  # fmt: skip


def convolved(
    projected: Sequence[Tensor],
    convolutions: Sequence[ShortConvolution],
    cu_seqlens: Tensor | None,
    tail: Tensor | None,
    keep: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """Each of `projected`, [B, T, D_i], through its convolution; tail [N, W - 1, sum of D_i]: their inputs before. Returns the
    same shapes, and the inputs to keep where `keep` asks for them."""
    tails = [None] * len(projected) if tail is None else tail.split([x.shape[-1] for x in projected], -1)
    each = [conv(x, cu_seqlens, t, keep) for x, conv, t in zip(projected, convolutions, tails, strict=True)]
    return [y for y, _ in each], torch.cat([after for _, after in each], -1) if keep else None


class ConvolvedLayer(StateLayer):
    """The `Tail` of a layer's convolutions, and in `inner` what its attention keeps. No token can be taken back."""

    state: Tail | None

    def __init__(self, inner: CacheLayerMixin, fixed: bool = False):
        super().__init__(fixed)
        self.inner = inner

    def get_seq_length(self) -> int:
        return self.inner.get_seq_length()

    def get_max_length(self) -> int:
        return self.inner.get_max_length()

    def get_max_cache_shape(self) -> int:
        return self.inner.get_max_cache_shape()

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.inner.get_mask_sizes(query_length)

    def reset(self) -> None:
        super().reset()
        self.inner.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self.inner.reorder_cache(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.inner.batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.inner.batch_repeat_interleave(repeats)

    def why_not_crop(self, count: int) -> str | None:
        return "has short convolutions, and keeps no more of their inputs than the next token needs"


def parts_of(layer: CacheLayerMixin) -> tuple[CacheLayerMixin, ...]:
    """A cache layer; and what its attention keeps, where its convolutions keep something too."""
    return (layer, layer.inner) if isinstance(layer, ConvolvedLayer) else (layer,)
