"""The cache of a model of this package: Transformers' own `Cache`, with each mixer's kind of layer in it.

Softmax over everything keeps Transformers' growing `DynamicLayer`; slots, windows and matrices keep states of constant size.

    cache = model.new_cache(); model(input_ids, past_key_values=cache); cache.state_bytes()
    cache = model.new_cache(max_length=4096)       # no tensor changes its shape or address: for decoding in a CUDA graph
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from models.cache_layers import Rows, StateLayer
from models.convolutions import parts_of

# Transformers 5.24 renamed `past_key_values` to `cache`, in what `generate` hands to a model and reads from its outputs.
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class NHACache(Cache):
    """One layer a decoder layer, each made by its mixer's `new_cache`; `rows` where its shapes are fixed, else None."""

    def __init__(self, layers: list[CacheLayerMixin], rows: Rows | None = None):
        super().__init__(layers=layers)
        self.rows = rows

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens a row, pads included."""
        return super().get_seq_length(layer_idx) if self.rows is None else self.rows.length()

    def crop(self, tokens_to_remove: int) -> None:
        """Takes the last -tokens_to_remove tokens of every row back.

        Softmax over everything always can; a window while it still holds what it would then reach (with
        `activate_past_recording`, all that came since the last crop); slots until a token has entered them; a recurrent
        state and short convolutions never. ValueError, before anything is changed, naming the layer that cannot.
        """
        try:
            count = -operator.index(tokens_to_remove)
        except TypeError:
            count = -1
        if count < 0:
            raise ValueError(f"crop was given {tokens_to_remove!r}; wanted a negative number, so many tokens to take back")
        if count > self.get_seq_length():
            raise ValueError(f"crop was asked to take {count} tokens back; the cache holds {self.get_seq_length()} a row")
        for i, layer in enumerate(self.layers):
            why = layer.why_not_crop(count) if count and isinstance(layer, StateLayer) else None
            if why:
                raise ValueError(
                    f"the last {count} tokens cannot be taken back: layer {i} {why}; "
                    "copy the cache (copy.deepcopy) before tokens that may have to go"
                )
        super().crop(-count)
        if self.rows is not None:
            self.rows.crop(count)

    def reset(self) -> None:
        """Forgets every token; fixed shapes keep their tensors."""
        super().reset()
        if self.rows is not None:
            self.rows.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row b becomes what row beam_idx[b] was."""
        super().reorder_cache(beam_idx)
        if self.rows is not None:
            self.rows.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices`, in that order."""
        super().batch_select_indices(indices)
        if self.rows is not None:
            self.rows.batch_select_indices(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row `repeats` times."""
        super().batch_repeat_interleave(repeats)
        if self.rows is not None:
            self.rows.batch_repeat_interleave(repeats)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor held now, by a name: "0.memory" of layer 0, "rows.seen" of what all layers of fixed shapes share."""
        held = {}
        for i, layer in enumerate(self.layers):
            for part in parts_of(layer):
                if isinstance(part, StateLayer):
                    own = {} if part.state is None else part.state.tensors()
                else:
                    own = {"keys": part.keys, "values": part.values}
                held |= {f"{i}.{name}": t for name, t in own.items()}
        if self.rows is not None:
            held |= {f"rows.{name}": getattr(self.rows, name) for name in ("filled", "seen", "mask")}
        return {name: t for name, t in held.items() if isinstance(t, torch.Tensor)}

    def state_bytes(self) -> int:
        """Bytes of all the layers' tensors held now."""
        held = (t for name, t in self.tensors().items() if not name.startswith("rows."))
        return sum(t.numel() * t.element_size() for t in held)
