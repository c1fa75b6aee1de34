"""What a cache holds of one layer: a state of constant size, or keys and values in a place of fixed length.

Legend: B rows, T new tokens, H key-value heads, S the most tokens a row, K head dimension, M slots, w window.

A layer of fixed shapes (`fixed`) writes each new state over the old one: from its first token on no tensor of it changes
its shape or its address, as a CUDA graph of a decoding step needs.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from kernels import NHAState
from models.batch import Batch


class StateLayer(CacheLayerMixin):
    """One layer's state (`tensors`, `nbytes`, `index_select`, `to`: `NHAState`, or a mixer's own), each row's in its first
    dimension. Its length counts the tokens a row was given, pads included, as Transformers expects.

    The next step may write over the state's tensors, so no two layers share any: a copy of a cache is `copy.deepcopy`'s, and
    what reorders or repeats its rows copies too.
    """

    is_sliding = False
    is_croppable = False
    # Transformers would make four-dimensional masks and compile the model; a step of fixed shapes takes neither.
    is_compileable = False

    def __init__(self, fixed: bool = False):
        super().__init__()
        self.state = None
        self.length = 0
        self.unpadded = 0
        self.fixed = fixed

    def advance(self, state, batch: Batch) -> None:
        """Takes the state after `batch`."""
        if not self.fixed:
            self.state = state
        elif self.state is None:
            self.state = self.settled(state)
        else:
            self.state = _written(self.state, state)
        self.unpadded = self.unpadded + batch.new if batch.valid is None else batch.unpadded
        self.length, self.is_initialized = self.length + batch.new, True

    def settled(self, state):
        """The state in tensors of its own, of the shapes that they will keep."""
        own = {name: t.clone(memory_format=torch.contiguous_format) for name, t in state.tensors().items()}
        return replace(state, **own)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise TypeError("this layer holds a state; a mixer hands it over by advance(), not by keys and values")

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
        if self.state is None:
            return
        new = change(self.state)
        same = all(new.tensors()[name].shape == t.shape for name, t in self.state.tensors().items())
        self.state = _written(self.state, new) if self.fixed and same else new

    def reset(self) -> None:
        self.length, self.unpadded = 0, 0
        if self.fixed and self.state is not None:
            # Zeros throughout are the state before any token.
            for t in self.state.tensors().values():
                t.zero_()
        else:
            self.state, self.is_initialized = None, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._map(lambda state: state.index_select(beam_idx))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._map(lambda state: state.index_select(torch.as_tensor(indices)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._map(lambda state: state.index_select(_rows(state).repeat_interleave(repeats)))

    def why_not_crop(self, count: int) -> str | None:
        """Why the last `count` >= 1 tokens cannot be taken back, as the rest of a sentence; None where they can."""
        return "keeps one state, into which every token has been merged"

    def crop(self, tokens_to_remove: int) -> None:
        """Takes the last -tokens_to_remove tokens a row back. ValueError where the state does not allow it."""
        count = abs(tokens_to_remove)
        why = self.why_not_crop(count) if count else None
        if why:
            raise ValueError(f"the last {count} tokens cannot be taken back: this layer {why}")
        self._take_back(count)

    def _take_back(self, count: int) -> None:
        """Does what `crop` has found possible."""


def _written(held, new):
    """`held` with the values of `new` written over its own."""
    for name, t in new.tensors().items():
        old = held.tensors()[name]
        if t.data_ptr() != old.data_ptr():
            old.copy_(t)
    return held


def _rows(state) -> Tensor:
    """The sequences of a state, numbered."""
    return torch.arange(len(next(iter(state.tensors().values()))))


class RingLayer(StateLayer):
    """One layer's `NHAState`. Tokens can be taken back while the ring still holds them and none has entered the slots."""

    state: NHAState | None

    def settled(self, state: NHAState) -> NHAState:
        return super().settled(state.grown(max(state.window, state.delay)))

    def why_not_crop(self, count: int) -> str | None:
        if self.state is None:
            return None
        if count > self.unpadded:
            return f"knows of the last {self.unpadded} tokens alone that none of them is padding"
        why = self.state.why_not_before(count)
        if why is None and self.fixed and int(self.state.seen.max()) > self.state.ring_size:
            return f"is of fixed shapes and has written over tokens older than {self.state.ring_size}"
        return why

    def _take_back(self, count: int) -> None:
        if self.state is None or not count:
            return
        before = self.state.before(count, self.state.ring_size if self.fixed else None)
        self.state = _written(self.state, before) if self.fixed else before
        self.length, self.unpadded = self.length - count, self.unpadded - count


class WindowLayer(RingLayer):
    """The ring of a sliding window. After `activate_past_recording` it keeps, until the next `crop`, whatever came since the
    last one besides the window, as speculative decoding needs that takes rejected tokens back."""

    is_sliding = True

    def __init__(self, window: int, fixed: bool = False):
        super().__init__(fixed)
        self.window = window
        self.record_past = False
        self.since_crop = 0

    @property
    def is_croppable(self) -> bool:
        """Whether any tokens that came since the last crop can be taken back: with `activate_past_recording` they can."""
        return not self.fixed

    def activate_past_recording(self) -> None:
        """Keeps from now on what a `crop` may ask for. A layer of fixed shapes has no room for it."""
        self.record_past = not self.fixed

    def keep(self, new: int) -> int:
        """Tokens to be kept after `new` more."""
        return self.window + (self.since_crop + new if self.record_past else 0)

    def advance(self, state: NHAState, batch: Batch) -> None:
        super().advance(state, batch)
        self.since_crop += batch.new

    def reset(self) -> None:
        super().reset()
        self.since_crop = 0

    def _take_back(self, count: int) -> None:
        super()._take_back(count)
        self.since_crop = 0
        if self.state is not None and self.state.delay > self.window:
            self.state = replace(self.state, delay=self.window).before(0)


class FixedKeys(CacheLayerMixin):
    """Keys and values [B, H, S, K] of all tokens, in place; `rows` knows how many there are."""

    is_sliding = False
    is_croppable = True
    is_compileable = False

    def __init__(self, rows: Rows):
        super().__init__()
        self.rows = rows

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        room = lambda x: x.new_zeros(*x.shape[:2], self.rows.max_length, x.shape[3])  # noqa: E731
        self.keys, self.values = room(key_states), room(value_states)
        self.device, self.is_initialized = key_states.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Writes key_states and value_states [B, H, T, K] behind what there is; returns the whole places."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        place = self.rows.places(key_states.shape[2])
        return tuple(
            held.index_copy_(2, place, new.to(held.dtype))
            for held, new in ((self.keys, key_states), (self.values, value_states))
        )

    def get_seq_length(self) -> int:
        return self.rows.length()

    def get_max_length(self) -> int:
        return self.rows.max_length

    def get_max_cache_shape(self) -> int:
        return self.rows.max_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.rows.max_length, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.is_initialized:
            self.keys, self.values = (_selected(x, indices) for x in (self.keys, self.values))

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.is_initialized:
            self.keys, self.values = (x.repeat_interleave(repeats, 0) for x in (self.keys, self.values))

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing to do: what stands behind the tokens that `rows` counts is never met."""


class Rows:
    """What all layers of a cache of fixed shapes share, on the device so that a CUDA graph moves it on: filled, of no
    dimension, tokens a row with pads; seen [B], tokens without; mask [B, S] bool, which of the filled places count."""

    def __init__(self, max_length: int):
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise ValueError(f"max_length is {max_length!r}; wanted the most tokens a row, an int >= 1")
        self.max_length = max_length
        self.filled: Tensor | None = None
        self.seen: Tensor | None = None
        self.mask: Tensor | None = None

    def length(self) -> int:
        """Tokens a row; on a GPU this waits for it."""
        return 0 if self.filled is None else int(self.filled)

    def places(self, new: int) -> Tensor:
        """[T] int64: where the `new` tokens after those there are belong."""
        return self.filled + torch.arange(new, device=self.filled.device)

    def check_room(self, new: int) -> int:
        """Tokens a row there are. ValueError where `new` more have no room; on a GPU this waits for it."""
        held = self.length()
        if held + new > self.max_length:
            raise ValueError(
                f"the cache has room for {self.max_length} tokens a row, holds {held}, and {new} were given; "
                "wanted a cache with a larger max_length"
            )
        return held

    def receive(self, count: int, new: int, valid: Tensor | None, device: torch.device) -> None:
        """Makes room for `new` tokens of `count` rows, valid [B, T] or all. ValueError where the rows do not fit."""
        self.meet(count, device)
        real = self.mask.new_ones(count, new) if valid is None else valid
        self.mask.index_copy_(1, self.places(new), real)

    def meet(self, count: int, device: torch.device) -> None:
        """Makes the tensors for `count` rows at the first of them. ValueError where the rows do not fit."""
        if self.filled is None:
            self.filled = torch.zeros((), dtype=torch.int64, device=device)
            self.seen = torch.zeros(count, dtype=torch.int64, device=device)
            self.mask = torch.zeros(count, self.max_length, dtype=torch.bool, device=device)
        if len(self.seen) != count:
            raise ValueError(f"the cache holds {len(self.seen)} rows and {count} were given; wanted as many")

    def advance(self, new: int, valid: Tensor | None) -> None:
        """Counts what `receive` has made room for."""
        if valid is None:
            torch._foreach_add_([self.filled, self.seen], new)
            return
        self.filled.add_(new)
        self.seen.add_(valid.sum(-1))

    def crop(self, count: int) -> None:
        if self.filled is not None:
            gone = torch.arange(self.max_length, device=self.mask.device) >= self.filled - count
            self.seen.sub_((self.mask & gone).sum(-1))
            self.mask.masked_fill_(gone, False)
            self.filled.sub_(count)

    def reset(self) -> None:
        for x in (self.filled, self.seen, self.mask):
            if x is not None:
                x.zero_()

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.filled is not None:
            self.seen, self.mask = (_selected(x, indices) for x in (self.seen, self.mask))

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.filled is not None:
            self.seen, self.mask = (x.repeat_interleave(repeats, 0) for x in (self.seen, self.mask))


def _selected(x: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` of x, in x itself where there are as many."""
    new = x.index_select(0, torch.as_tensor(indices, device=x.device))
    return x.copy_(new) if new.shape == x.shape else new
