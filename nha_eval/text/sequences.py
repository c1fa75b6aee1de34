"""Training sequences out of a row of tokens: what a training loop reads, one item at a time.

Item i is a pure function of (tokens, settings, seed, i), so a run that is broken off goes on at the item that it had reached.
An epoch is one permutation of all sequences; the next has another. Two packings:

- `blocks`: every `length` tokens are a sequence, across the ends of documents.
- `documents`: whole documents side by side, and `position_ids` that start again at 0 with each, by which the models here let
  none see another. A document longer than `length` is cut; the rest of a sequence, into which no document fits, is padding: a
  sequence of its own that no label counts. Best-fit packing (Ding et al. 2024, arXiv 2404.10830).

    Sequences(np.arange(100), length=8, seed=0)[3]      # {"input_ids": LongTensor [8]}
"""

from __future__ import annotations

from bisect import bisect_left, insort
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nha_eval.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NOT_COUNTED = -100


class Items(Protocol):
    """`[i]`: a sequence as numpy arrays, by the names that a model takes them under."""

    def __getitem__(self, i: int) -> dict[str, np.ndarray]: ...


class Packing(Items, Protocol):
    """Sequences in their first order, and how many there are."""

    def __len__(self) -> int: ...


class Blocks:
    """Sequence i is tokens[i * length : (i + 1) * length]; what is left at the end is not used."""

    def __init__(self, tokens: np.ndarray, length: int):
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        return {"input_ids": np.asarray(self.tokens[i * self.length : (i + 1) * self.length], np.int64)}


class Documents:
    """Documents, each ending in the token `separator`, packed into sequences of `length`.

    Items have input_ids, position_ids and labels, each [length]; a label is -100 at the first token of each document, which no
    token before it foretells, and at padding.
    """

    def __init__(self, tokens: np.ndarray, length: int, separator: int):
        self.tokens, self.length, self.separator = tokens, length, separator
        self.sequences = _best_fit(_pieces(tokens, length, separator), length)

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        parts = [np.asarray(self.tokens[begin:end], np.int64) for begin, end in self.sequences[i]]
        return packed(parts, self.length, self.separator)


def packed(parts: list[np.ndarray], length: int, pad: int) -> dict[str, np.ndarray]:
    """The parts side by side and padding after them, as `Documents` describes its items."""
    lengths = [len(part) for part in parts]
    gap = length - sum(lengths)
    ids = np.concatenate([*parts, np.full(gap, pad, np.int64)])
    labels = ids.copy()
    labels[length - gap :] = NOT_COUNTED
    labels[np.cumsum([0, *lengths[:-1]])] = NOT_COUNTED
    return {
        "input_ids": ids,
        "position_ids": np.concatenate([np.arange(n) for n in (*lengths, gap)]),
        "labels": labels,
    }


def document_bounds(tokens: np.ndarray, separator: int) -> np.ndarray:
    """[N + 1] int64: document n is tokens[bounds[n] : bounds[n + 1]], its separator the last."""
    ends = np.flatnonzero(np.asarray(tokens) == separator) + 1
    if len(tokens) and (not len(ends) or ends[-1] != len(tokens)):
        ends = np.append(ends, len(tokens))
    return np.concatenate([[0], ends]).astype(np.int64)


def _pieces(tokens: np.ndarray, length: int, separator: int) -> list[tuple[int, int]]:
    bounds = document_bounds(tokens, separator).tolist()
    # A single token has nothing to be foretold from.
    return [
        (start, min(start + length, end))
        for begin, end in pairwise(bounds)
        for start in range(begin, end, length)
        if end - start > 1
    ]


def _best_fit(pieces: list[tuple[int, int]], length: int) -> list[list[tuple[int, int]]]:
    """Each piece, longest first, into the fullest sequence that has room for it."""
    sequences: list[list[tuple[int, int]]] = []
    # (room, sequence), ascending; full ones are left out.
    open_ones: list[tuple[int, int]] = []
    for piece in sorted(pieces, key=lambda piece: (piece[0] - piece[1], piece[0])):
        size = piece[1] - piece[0]
        place = bisect_left(open_ones, (size, -1))
        if place < len(open_ones):
            room, chosen = open_ones.pop(place)
            sequences[chosen].append(piece)
        else:
            room, chosen = length, len(sequences)
            sequences.append([piece])
        if room > size:
            insort(open_ones, (room - size, chosen))
    return sequences


class Sequences:
    """A map dataset over a packing in seeded order, with `recall_share` of its items made for recall.

    `items` is `len()`: one epoch of the text where None; more go through it again in new orders. `recall` gives the items of
    made text (`RecallSequences`); they are spread evenly. Items are dicts of LongTensor [length].
    """

    def __init__(
        self,
        tokens: np.ndarray | Packing,
        length: int,
        seed: int = 0,
        *,
        items: int | None = None,
        recall: Items | None = None,
        recall_share: float = 0.0,
    ):
        self.packing: Packing = Blocks(tokens, length) if isinstance(tokens, np.ndarray) else tokens
        self.length, self.seed = length, seed
        if recall is None and recall_share:
            raise ValueError(f"recall_share is {recall_share} and recall is None; wanted the sequences that are to be mixed in")
        self.recall, self.recall_share = recall, recall_share
        if not len(self.packing) and self.recall_share < 1:
            raise UserError(
                f"the training text is shorter than one sequence of {length} tokens: give more text, or a shorter one"
            )
        one_epoch = len(self.packing) if self.recall_share == 1 else int(len(self.packing) / (1 - self.recall_share))
        self.items = one_epoch if items is None else items
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        import torch

        if i < 0:
            i += self.items
        if not 0 <= i < self.items:
            raise IndexError(f"item {i} of {self.items}")
        return {name: torch.from_numpy(values) for name, values in self._item(i).items()}

    def _item(self, i: int) -> dict[str, np.ndarray]:
        made = int(i * self.recall_share)
        if int((i + 1) * self.recall_share) > made:
            return self.recall[made]
        epoch, place = divmod(i - made, len(self.packing))
        return self.packing[int(self._permutation(epoch)[place])]

    def _permutation(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.packing))
        return self._order[1]


class FixedBlocks:
    """The first `count` blocks of `length` tokens, always the same: what a model is evaluated on. Items as of `Sequences`."""

    def __init__(self, tokens: np.ndarray, length: int, count: int | None, what: str):
        self.blocks = Blocks(tokens, length)
        there = len(self.blocks)
        if count is not None and count > there:
            raise UserError(
                f"the {what} text has {there} sequences of {length} tokens, {count} were asked for: ask for fewer or shorter "
                "ones, or give more text"
            )
        self.count = there if count is None else count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        import torch

        if not 0 <= i < self.count:
            raise IndexError(f"item {i} of {self.count}")
        return {name: torch.from_numpy(values) for name, values in self.blocks[i].items()}
