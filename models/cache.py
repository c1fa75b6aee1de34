"""The cache of a model of this package: Transformers' own `Cache`, with each mixer's kind of layer in it.

Softmax over everything keeps Transformers' growing `DynamicLayer`; slots and windows keep an `NHAState` of constant size.

    cache = model.new_cache(); model(input_ids, past_key_values=cache); cache.state_bytes()
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from kernels import NHAState

# Transformers 5.24 renamed `past_key_values` to `cache`, in what `generate` hands to a model and reads from its outputs.
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class StateLayer(CacheLayerMixin):
    """One layer's `NHAState`. Its length counts the tokens a row was given, pads included, as Transformers expects.

    The next step may write over the state's tensors, so no two layers share any: a copy of a cache is `copy.deepcopy`'s, and
    what reorders or repeats its rows copies too.
    """

    is_sliding = False
    is_croppable = False
    is_compileable = False

    def __init__(self):
        super().__init__()
        self.state: NHAState | None = None
        self.length = 0

    def advance(self, state: NHAState, tokens: int) -> None:
        """Takes the state after `tokens` more tokens a row."""
        self.state, self.length, self.is_initialized = state, self.length + tokens, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise TypeError("this layer holds an NHA state; a mixer hands it over by advance(), not by keys and values")

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        return self.lazy_initialization(key_states, value_states)

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def _map(self, change) -> None:
        if self.state is not None:
            self.state = change(self.state)

    def reset(self) -> None:
        self.state, self.length, self.is_initialized = None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._map(lambda state: state.index_select(beam_idx))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._map(lambda state: state.index_select(torch.as_tensor(indices)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._map(lambda state: state.index_select(_rows(state).repeat_interleave(repeats)))

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove:
            raise ValueError(
                f"asked to take {abs(tokens_to_remove)} tokens back out of a constant-size state, which has already merged "
                "them into its slots; copy the cache (copy.deepcopy) before the tokens that may have to go"
            )

    def offload(self) -> None:
        self._map(lambda state: state.to("cpu"))

    def prefetch(self) -> None:
        """Nothing to fetch ahead: a mixer moves a state back when it meets it."""

    def nbytes(self) -> int:
        return 0 if self.state is None else self.state.nbytes()


def _rows(state) -> Tensor:
    """The sequences of a state, numbered."""
    return torch.arange(len(next(iter(state.tensors().values()))))


class NHACache(Cache):
    """One layer a decoder layer, each made by its mixer's `new_cache`."""

    def __init__(self, layers: list[CacheLayerMixin]):
        super().__init__(layers=layers)

    def state_bytes(self) -> int:
        """Bytes of all tensors held now, over all layers."""
        return sum(_layer_bytes(layer) for layer in self.layers)


def _layer_bytes(layer: CacheLayerMixin) -> int:
    if isinstance(layer, StateLayer):
        return layer.nbytes()
    held = (layer.keys, layer.values)
    return sum(t.numel() * t.element_size() for t in held if t is not None)
