"""Softmax attention with rotary embedding: over everything (window None), or over the last `window` tokens alone.

Full attention runs on torch's SDPA and keeps every key; a window runs on `kernels.sliding_window_attention` and keeps a
state of constant size. Full attention is also what an NHA layer becomes when its window is None.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from kernels import sliding_window_attention
from kernels.nha.op import resolve_backend
from kernels.rotary import turn
from models.batch import Batch
from models.cache_layers import FixedKeys, RingLayer, Rows, WindowLayer
from models.layers import HeadProjections


class FullAttention(HeadProjections):
    """What mixers with a window share: softmax attention over everything, once that window is None."""

    has_window = True

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        self.window = config.windows[layer_idx]

    def new_cache(self, rows: Rows | None = None):
        """An empty cache layer for the window as it is; of fixed shapes where `rows` is given."""
        fixed = rows is not None
        if self.window is None:
            return self.with_convolutions(FixedKeys(rows) if fixed else DynamicLayer(), fixed)
        return self.with_convolutions(self.new_window_cache(fixed), fixed)

    def new_window_cache(self, fixed: bool) -> RingLayer:
        """An empty cache layer for a window that is an int."""
        return RingLayer(fixed)

    def everything(self, q: Tensor, k: Tensor, v: Tensor, batch: Batch, cache: DynamicLayer | FixedKeys | None) -> Tensor:
        """q [B, T, HQ, K], k, v [B, T, H, K] -> [B, T, HQ, K], by torch's own kernel."""
        cos, sin = batch.cos[:, None], batch.sin[:, None]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        if cache is not None:
            held = cache.update(k, v)
            # Before the first token a cache of fixed shapes has nothing to meet but empty places.
            k, v = (k, v) if isinstance(batch.past, int) and batch.past == 0 else held
        attend = partial(F.scaled_dot_product_attention, scale=self.scale, enable_gqa=self.query_heads != self.heads)
        if batch.lengths is None:
            causal = batch.attends is None and batch.new > 1
            return attend(q, k, v, attn_mask=batch.attends, is_causal=causal).transpose(1, 2)
        # A mask of all tokens by all would take the memory that packing is there to save.
        packed = (batch.pack(x.transpose(1, 2)).transpose(1, 2).split(batch.lengths, 2) for x in (q, k, v))
        out = torch.cat([attend(*part, is_causal=True) for part in zip(*packed, strict=True)], 2)
        return batch.spread(out.transpose(1, 2))

    def state_elements(self, length: int) -> int:
        """As of `models.mixers`: the keys and values that the window reaches, and the inputs that convolutions keep."""
        held = length if self.window is None else min(length, self.window)
        return 2 * self.heads * self.head_dim * held + self.tail_elements()

    def all_keys_bytes(self, batch_size: int, length: int, itemsize: int) -> int:
        """Bytes of the cache at a window of None: every key and value of `length` tokens, and what convolutions keep."""
        return batch_size * (2 * self.heads * self.head_dim * length + self.tail_elements()) * itemsize


class Mixer(FullAttention):
    """Softmax attention over everything or over a sliding window; `window` tokens, or None."""

    smallest_window = 1

    def new_window_cache(self, fixed: bool) -> WindowLayer:
        return WindowLayer(self.window, fixed)

    def forward(self, hidden_states: Tensor, batch: Batch, cache=None, norm=None) -> Tensor:
        residual = None if norm is None else hidden_states
        (q, k, v), cache, moved_on = self.heads_and_cache(hidden_states, batch, cache, norm)
        if self.window is None:
            out = self.everything(q, k, v, batch, cache)
            moved_on()
            return self.out_of(out, residual)
        out, state = sliding_window_attention(
            batch.pack(q),
            batch.pack(k),
            batch.pack(v),
            self.window,
            rotary=batch.rotary,
            scale=self.scale,
            cu_seqlens=batch.cu_seqlens,
            state=None if cache is None else cache.state,
            return_state=cache is not None,
            keep=None if cache is None else cache.keep(batch.new),
            overwrite_state=cache is not None and not torch.is_grad_enabled(),
        )
        if cache is not None:
            cache.advance(state, batch)
        moved_on()
        return self.out_of(batch.spread(out), residual)

    def backend(self) -> str:
        """What the layer runs on at its window."""
        if self.window is None:
            return "sdpa"
        return resolve_backend("auto", self.q_proj.weight.device, self.q_proj.weight.dtype)

    def state_bytes(self, batch_size: int, length: int, itemsize: int) -> int:
        """Bytes of the cache after `length` tokens of `itemsize` bytes an element."""
        if self.window is None:
            return self.all_keys_bytes(batch_size, length, itemsize)
        kept = min(length, self.window)
        return batch_size * ((kept * (2 * self.heads + 1) * self.head_dim + self.tail_elements()) * itemsize + 8)
