"""95% intervals of perplexities, by documents drawn anew with replacement (percentile bootstrap).

draws = Resamples(documents=180, count=10_000, seed=0)
draws.interval(sums, tokens)                       # of a mean loss, sum over documents / tokens
draws.difference(sums_a, sums_b, tokens)           # of two models', over the same documents
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

TAILS = (2.5, 97.5)  # percent


class Resamples:
    """The same draws for all that is asked, so that what is compared meets the same documents."""

    def __init__(self, documents: int, count: int, seed: int = 0):
        self.weights = _weights(documents, count, seed)

    def means(self, sums: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """[draws]: the mean a token, NaN for a draw without any. sums, tokens [documents]."""
        drawn = self.weights @ np.stack([sums, tokens], 1).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return drawn[:, 0] / drawn[:, 1]

    def interval(self, sums: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
        """(low, high) of the mean a token."""
        return _ends(self.means(sums, tokens))

    def difference(self, a: np.ndarray, b: np.ndarray, tokens: np.ndarray) -> tuple[float, float, float]:
        """(mean of a less that of b, low, high), document by document."""
        low, high = _ends(self.means(np.asarray(a) - np.asarray(b), tokens))
        return float((np.sum(a) - np.sum(b)) / np.sum(tokens)), low, high


@lru_cache(maxsize=32)
def _weights(documents: int, count: int, seed: int) -> np.ndarray:
    """[count, documents]: how often each document is in a draw. Every table asks for the same few."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(documents, np.full(documents, 1 / documents), size=count).astype(np.float64)


def _ends(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.percentile(values, TAILS)
    return float(low), float(high)
