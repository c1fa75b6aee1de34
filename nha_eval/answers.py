"""A model's answers to single requests, so that an interrupted cell goes on at the next document.

A cell's id stands for weights, window, task, version and settings; within it a request is known by its tokens and, where
text is generated, by the settings of that. The worker tells of each batch's answers as they come, the journal keeps them,
and the cell begun anew is handed them. Batches stay as they would be without them, so that what is left to do gives the
same to the last bit. So several workers may answer a cell's batches in turns, and one of them then take its scores.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any


def key_of(kind: str, *parts: Any) -> str:
    """What tells a request from every other of its cell: `kind` of request, and plain data (token ids, settings)."""
    return hashlib.sha256(json.dumps([kind, *parts], sort_keys=True, default=str).encode()).hexdigest()[:32]


class Answers:
    """`known` holds what was answered before, key by key; `tell` is called with each batch's new answers. `part` (i, n): only
    every nth batch is answered, from the ith on, counted by `turns` through the whole cell; what is had of the others means
    nothing.
    """

    def __init__(
        self,
        known: Mapping[str, Any] | None = None,
        tell: Callable[[dict[str, Any]], None] | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.known = dict(known or {})
        self.part, self.turns = part, itertools.count()
        self._tell = tell

    def note(self, found: dict[str, Any]) -> None:
        """Keep and tell of answers, plain data each."""
        self.known |= found
        if self._tell is not None and found:
            self._tell(found)
