"""Near-duplicates between two sets of documents, by the word 5-grams that they share, counted exactly.

One of the sets is small (what is held out), so its 5-grams fit into a sorted table and the other is streamed past it. A sketch
such as MinHash would estimate the Jaccard index, which a page quoted inside a book leaves near 0; containment sees it.

    near_duplicates(["a b c d e f g"], ["A b c, d e f g"])      # ([True], [False]): the second set's stays, as the first's goes
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np

SHINGLE = 5  # words
NEAR = 0.5  # of a document's 5-grams
_WORD = re.compile(r"\w+")


class Shingles:
    """The 5-grams of texts as 64-bit numbers, the same for the same words within one object.

    Words are numbered as they come; a 5-gram is the sum of its words' numbers, each times a random odd factor, modulo 2^64.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._factors = np.random.default_rng(0).integers(0, 2**63, SHINGLE, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

    def __call__(self, text: str) -> np.ndarray:
        """[n] uint64, ascending, each once; empty for fewer than five words."""
        numbers = self._numbers
        found = [numbers.setdefault(word, len(numbers) + 1) for word in _WORD.findall(text.lower())]
        if len(found) < SHINGLE:
            return np.empty(0, np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(np.array(found, np.uint64), SHINGLE)
        return np.unique((windows * self._factors).sum(axis=1, dtype=np.uint64))


def near_duplicates(
    texts: Iterable[str], held: list[str], shingles: Shingles | None = None, step: Callable[[], None] = lambda: None
) -> tuple[list[bool], list[bool]]:
    """Which `texts` have at least half of their 5-grams in all of `held` together; and which of `held` have at least half of
    theirs in those texts that have not. `step` is called after each text.
    """
    shingles = shingles or Shingles()
    sets = [shingles(text) for text in held]
    table = np.unique(np.concatenate(sets)) if sets else np.empty(0, np.uint64)
    met = np.zeros(len(table), bool)
    near = []
    for text in texts:
        own = shingles(text)
        places = np.searchsorted(table, own)
        places = places[table[np.minimum(places, len(table) - 1)] == own] if len(table) else places[:0]
        near.append(len(own) > 0 and len(places) >= NEAR * len(own))
        if not near[-1]:
            met[places] = True
        step()
    held_near = [len(own) > 0 and met[np.searchsorted(table, own)].mean() >= NEAR for own in sets]
    return near, [bool(flag) for flag in held_near]
