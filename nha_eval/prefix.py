"""Prefix sharing: run what several token sequences have in common once, then go on from copies of the cache.

Several questions on one context, the choices of one item, and few-shot items with the same examples all begin alike.
`plan` sorts the sequences and builds a tree: a node is a stretch of tokens that everything below it shares, so
examples can be shared by all items and each item's context by its choices. `walk` runs the tree depth first, a node
as one row on a copy of its parent's cache, and hands each node's rows, in batches, to the caller with that cache.

The rule, the same for every model and batch size: neighbours in sorted order are put under one node when they share
at least `MIN_PREFIX` more tokens than their parent node holds and (rows - 1) * (tokens shared) is at least
`min_saving`, the number of tokens that one more call of the model is worth. On a CPU a call costs little beyond its
tokens; on a GPU it costs as much as thousands of them, and rows that are to be continued cost a call for each token that is
generated, whether few or many stand under a node: there a node must save as many times more (`saving_worth`).

A sequence's `limit` is the number of leading tokens that may be shared: at least one token has to be left to its own
row, the one whose logits predict the first token asked for.
"""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from models.cache import CACHE_NAME
from nha_eval.errors import is_out_of_memory

MIN_PREFIX = 32
MIN_SAVING = {"cpu": 32, "cuda": 4096}


def saving_worth(device: str, generated: int = 0) -> int:
    """The tokens that a node of the tree must save on a device of this type ("cpu", "cuda") where each of its rows is
    continued by at most `generated` tokens."""
    least = MIN_SAVING.get(device, MIN_SAVING["cuda"])
    return least if device == "cpu" else least * (1 + generated)


@dataclass
class Node:
    """`length` leading tokens shared by `rows` and by everything in `children`; `rows` are indices of sequences."""

    length: int
    rows: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    def any_row(self) -> int:
        """A sequence that begins with this node's tokens."""
        return self.rows[0] if self.rows else self.children[0].any_row()

    def all_rows(self) -> Iterator[int]:
        """Every sequence that begins with this node's tokens."""
        yield from self.rows
        for child in self.children:
            yield from child.all_rows()


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of leading items that `a` and `b` have in common."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def plan(
    sequences: Sequence[Sequence[int]],
    limits: Sequence[int],
    *,
    min_prefix: int = MIN_PREFIX,
    min_saving: int = MIN_SAVING["cpu"],
) -> Node:
    """Arrange `sequences` (token ids) as a tree of shared prefixes; `limits[i]` tokens of sequence i at most are
    shared.

    Returns the root, of length 0. The tree depends on the set of sequences alone, not on their order, except that
    equal sequences keep the order given. Rows of a node come longest first.
    """
    order = sorted(range(len(sequences)), key=lambda i: (tuple(sequences[i]), i))
    links = [min(common_prefix(sequences[a], sequences[b]), limits[a], limits[b]) for a, b in pairwise(order)]

    def add(node: Node, start: int, stop: int) -> None:
        """Put order[start:stop], which all begin with the node's tokens, below it."""
        inner = links[start : stop - 1]
        weakest = min(inner, default=0)
        gain = weakest - node.length
        if inner and gain >= min_prefix and len(inner) * gain >= min_saving:
            child = Node(weakest)
            node.children.append(child)
            add(child, start, stop)
            return
        # Links too weak for any sharing are all cut at once, so that the recursion stays shallow.
        cut = max(weakest, node.length + min_prefix - 1)
        bounds = [start, *(start + 1 + i for i, link in enumerate(inner) if link <= cut), stop]
        for low, high in pairwise(bounds):
            if high - low == 1:
                node.rows.append(order[low])
            elif high > low:
                add(node, low, high)

    root = Node(0)
    add(root, 0, len(order))
    _longest_first(root, sequences)
    return root


def _longest_first(node: Node, sequences: Sequence[Sequence[int]]) -> None:
    node.rows.sort(key=lambda i: -len(sequences[i]))
    for child in node.children:
        _longest_first(child, sequences)


class Batches:
    """Hands out rows in batches; when memory runs out, halves them and tries the same rows again, and grows back.

    `size` is the rows of a batch or, with `width` (a row's tokens), the tokens that a batch's rows come to when each is as long
    as its first. A size that was halved doubles after `PATIENCE` batches without trouble, and after twice as many each time
    that this was too much. Rows in `done` are left out of their batch, which changes no other batch. A result must not depend
    on `size`. At one row the error is passed on.
    """

    PATIENCE = 4

    def __init__(self, size: int, width: Callable[[int], int] | None = None, done: Container[int] = ()) -> None:
        if size < 1:
            raise ValueError(f"batch_size is {size}; it must be at least 1")
        self.size = self.most = size
        self.done = done
        self._cost = width or (lambda row: 1)
        self._calm, self._patience, self._grew = 0, self.PATIENCE, False

    def run(self, rows: Sequence[int], work: Callable[[list[int]], None], mine: Callable[[], bool] = lambda: True) -> None:
        """Call `work` on successive slices of `rows`, longest first, where `mine` says so, which is asked once a slice; `work`
        keeps nothing of a slice unless it returns."""
        start, asked, turn = 0, -1, False
        while start < len(rows):
            if asked < start:
                asked, turn = start, mine()
            cost = self._cost(rows[start])
            batch = rows[start : start + max(1, self.size // cost)]
            left = [row for row in batch if row not in self.done] if turn else []
            try:
                if left:
                    work(left)
            except (RuntimeError, MemoryError) as error:
                if len(left) == 1 or not is_out_of_memory(error):
                    raise
                self._patience *= 2 if self._grew else 1
                self.size, self._calm, self._grew = (len(left) + 1) // 2 * cost, 0, False
            else:
                start += len(batch)
                self._calm += bool(left)
                if self.size < self.most and self._calm >= self._patience:
                    self.size, self._calm, self._grew = min(self.most, 2 * self.size), 0, True
                continue
            # Outside the except block, where the traceback no longer holds the tensors that did not fit.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def walk(
    model: torch.nn.Module,
    root: Node,
    sequences: Sequence[Sequence[int]],
    batches: Batches,
    run_rows: Callable[[list[int], int, Any], None],
    part: tuple[int, int] = (0, 1),
    turns: Iterator[int] | None = None,
) -> None:
    """Run the shared stretches of the tree and call `run_rows(rows, length, cache)` for each batch of rows.

    `cache` holds the `length` tokens that the rows share, as a batch of len(rows), for `run_rows` to change as it
    likes; None at length 0. Memory: the caches of the nodes on the way down (seldom more than three), and one batch.
    `part` (i, n): batches, and nodes with all below them, are dealt out in `turns`, and every nth from the ith on is run; a
    node with more than half of what would be a part is gone into by all.
    """
    number, count = part
    small = sum(1 for _ in root.all_rows()) / (2 * count)

    def visit(node: Node, cache: Any, whole: bool, turns: Iterator[int]) -> None:
        mine = (lambda: True) if whole else (lambda: next(turns) % count == number)
        if node.rows:
            batches.run(node.rows, lambda rows: run_rows(rows, node.length, _expanded(cache, len(rows))), mine)
        for child in node.children:
            own = whole or sum(1 for _ in child.all_rows()) <= small
            # Asked of nodes that are done, too: whose turn it is must not depend on that.
            if (own and not mine()) or all(row in batches.done for row in child.all_rows()):
                continue
            tokens = sequences[child.any_row()][node.length : child.length]
            out = model(
                input_ids=torch.tensor([tokens], device=model.device),
                past_key_values=copy.deepcopy(cache),
                use_cache=True,
                logits_to_keep=1,
            )
            visit(child, getattr(out, CACHE_NAME), own, itertools.count())

    visit(root, None, count == 1, turns or itertools.count())


def _expanded(cache: Any, rows: int) -> Any:
    if cache is None:
        return None
    cache = copy.deepcopy(cache)
    cache.batch_repeat_interleave(rows)
    return cache
