"""The most that fits into memory: estimated first, then tried."""

from __future__ import annotations

from collections.abc import Callable

TRIES = 4  # between what fits and what does not
CLOSE = 16  # the search ends when these two are this near, as a part of what fits


def most_that_fits(guess: int, most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that `fits`, sought from `guess`, which is taken where it fits: halved until it does,
    then sought between the two; 0 where not even 1 fits.
    """
    at = min(max(guess, 1), most)
    if fits(at):
        return at
    low, high = 0, at
    while low == 0 and (at := high // 2):
        low, high = (at, high) if fits(at) else (0, at)
    for _ in range(TRIES if low else 0):
        if high - low <= max(1, low // CLOSE):
            break
        at = (low + high) // 2
        low, high = (at, high) if fits(at) else (low, at)
    return low
