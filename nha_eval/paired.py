"""Is the difference between two scores over the same documents real? Tests and intervals; nothing here knows of runs.

Legend: n documents, G clusters of them (questions on one text), R resamples.

- Right or wrong answers to documents that stand alone: McNemar's test on those that one side alone got right.
- All others: a paired wild bootstrap. Under the hypothesis of no difference, a cluster's difference might as well have had
  the other sign, so each resample flips the sign of every cluster's sum at random. Drawing clusters with replacement, the
  other bootstrap, calls equal settings different in 10 of 100 tables with 8 contexts, and is certain of a difference that is
  the same in all of them, however few they are.

The first is the second with clusters of one document, worked out instead of drawn.

    >>> pairs = compare_pairs([1, 1, 1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 1, 0, 0, 0], range(8))
    >>> pairs.test, pairs.difference, round(pairs.p, 4)
    ('McNemar, exact', 0.75, 0.0703)
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm

from nha_eval.stats import CONFIDENCE, cluster_codes, effective_n, is_right_or_wrong

RESAMPLES = 10_000
# From this many pairs (or clusters) that differ on, half of the probability of what was seen is left out ("mid-p"), without
# which the test rejects far less than the 5% it is allowed; below, what it would reject beyond 5% is too much.
EXACT_BELOW = 25
_CHUNK = 512  # resamples held at once


@dataclass(frozen=True)
class Paired:
    """Two scores over the same documents, A against B."""

    value_a: float
    value_b: float
    low: float | None  # 95% interval of value_a - value_b; None where it has no bound, or no spread to be told from
    high: float | None
    n: int  # documents
    clusters: int
    a_alone: int | None  # documents that A alone got right; None where answers are not right or wrong
    b_alone: int | None
    test: str
    p: float  # two-sided

    @property
    def difference(self) -> float:
        return self.value_a - self.value_b


def compare_pairs(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Paired:
    """Compare two settings' scores of the same n documents, a[i] and b[i] of document i, whose cluster is clusters[i].

    A score is sum(a) / sum(weights): weights[i] is what a[i] is a sum over (words of a text), 1 each by default. `seed` and
    `resamples` (at least 10,000) are the bootstrap's. Raises ValueError for unlike lengths, for no document, for values that
    are no numbers, and for weights that are not above 0.
    """
    a, b, codes = np.asarray(a, dtype=float), np.asarray(b, dtype=float), cluster_codes(clusters)
    weights = np.ones(len(a)) if weights is None else np.asarray(weights, dtype=float)
    if not len(a) == len(b) == len(codes) == len(weights) or len(a) == 0:
        given = f"{len(a)} values, {len(b)} values, {len(codes)} clusters and {len(weights)} weights"
        raise ValueError(f"{given}; wanted are as many of each, at least 1")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("some values are infinite or no number; wanted is a number a document")
    if not (weights > 0).all():
        raise ValueError("some weights are not above 0; wanted is what each value is a sum over")
    if resamples < RESAMPLES:
        raise ValueError(f"{resamples} resamples; wanted are at least {RESAMPLES}")
    groups, difference = int(codes.max()) + 1, a - b
    binary = is_right_or_wrong(a) and is_right_or_wrong(b) and bool((weights == 1).all())
    a_alone, b_alone = (int((difference > 0).sum()), int((difference < 0).sum())) if binary else (None, None)
    common = {"value_a": float(a.sum() / weights.sum()), "value_b": float(b.sum() / weights.sum())}
    common |= {"n": len(a), "clusters": groups}
    common |= {"a_alone": a_alone, "b_alone": b_alone}
    if binary and groups == len(a):
        low, high = tango_interval(a_alone, b_alone, len(a))
        form = "exact" if a_alone + b_alone < EXACT_BELOW else "mid-p"
        return Paired(**common, low=low, high=high, test=f"McNemar, {form}", p=float(mcnemar(a_alone, b_alone)))
    sums, sizes = (np.bincount(codes, weights=each) for each in (difference, weights))
    p, low, high = wild_bootstrap(sums, sizes, seed=seed, resamples=resamples)
    if binary:
        share = effective_n(difference, codes) / len(a)
        low, high = tango_interval(a_alone * share, b_alone * share, len(a) * share)
    return Paired(**common, low=low, high=high, test="bootstrap by context" if groups < len(a) else "bootstrap", p=p)


def mcnemar(a_alone: np.ndarray | int, b_alone: np.ndarray | int, form: str | None = None) -> np.ndarray:
    """Two-sided p values of McNemar's test, from the documents that A alone and that B alone got right (integers, any shape).

    `form`: `exact`, the binomial test of equal chances (Q. McNemar, Psychometrika 12, 1947); `mid-p`, which counts half of
    the probability of what was seen (Fagerland, Lydersen and Laake, BMC Med. Res. Methodology 13:91, 2013); None takes
    `exact` below 25 such documents and `mid-p` from there. At 5% the first rejects at most 5% of equal pairs, always; the
    second 5% within a point.
    """
    if form not in (None, "exact", "mid-p"):
        raise ValueError(f"form {form!r}; wanted is 'exact', 'mid-p' or None")
    fewer, both = np.minimum(a_alone, b_alone), np.add(a_alone, b_alone)
    exact = np.minimum(1.0, 2 * binom.cdf(fewer, both, 0.5))
    if form == "exact":
        return exact
    # Where both are equal the lower and the upper tail share what was seen.
    mid = np.where(np.equal(a_alone, b_alone), 1.0, exact - binom.pmf(fewer, both, 0.5))
    return mid if form == "mid-p" else np.where(both < EXACT_BELOW, exact, mid)


def tango_interval(a_alone: float, b_alone: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of the difference of two shares of right answers over the same n documents.

    The differences at which the score test, variance at that difference, would not reject (T. Tango, Statistics in Medicine
    17, 1998). Like Wilson's it has a width where no pair differs and where all do. n and the counts may be fractions, those
    of the effective number of documents.
    """
    z2, seen = norm.ppf((1 + confidence) / 2) ** 2, (a_alone - b_alone) / n

    def beyond(delta: float) -> float:
        # The score statistic's square over z^2, as a difference, which has no pole: negative where it does not reject.
        # q: the share of documents that B alone gets right, most likely where the true difference is delta.
        linear = -(a_alone + b_alone) + (2 * n - a_alone + b_alone) * delta
        q = (np.sqrt(max(0.0, linear**2 + 8 * n * b_alone * delta * (1 - delta))) - linear) / (4 * n)
        return n * (seen - delta) ** 2 - z2 * (2 * q + delta * (1 - delta))

    # Where no pair differs, what was seen is itself a root, and not the one wanted.
    step = 1e-9
    low = -1.0 if seen - step <= -1 else float(brentq(beyond, -1.0, seen - step))
    high = 1.0 if seen + step >= 1 else float(brentq(beyond, seen + step, 1.0))
    return low, high


def wild_bootstrap(
    sums: Sequence[float], sizes: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float | None, float | None]:
    """(p, low, high) of a mean difference from each cluster's sum of differences, [G], and its weight, [G].

    The wild cluster bootstrap with signs as weights and the hypothesis imposed (Cameron, Gelbach and Miller, Review of
    Economics and Statistics 90, 2008). The 95% interval holds the differences that the same test would not reject. All
    2^G choices of signs are gone through where they are no more than `resamples`, so that p is exact there, else
    `resamples` are drawn. None for a bound: five clusters or fewer reject nothing at 5%, or the differences have no spread.
    """
    sums, sizes = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    total, n, groups = sums.sum(), sizes.sum(), len(sums)
    every = 2**groups <= resamples
    flipped, counted = [], []
    rng = np.random.default_rng(seed)
    for start in range(0, 2**groups if every else resamples, _CHUNK):
        if every:
            numbers = np.arange(start, min(start + _CHUNK, 2**groups))
            bits = numbers[:, None] >> np.arange(groups) & 1
        else:
            drawn = rng.integers(0, 256, size=(min(_CHUNK, resamples - start), -(-groups // 8)), dtype=np.uint8)
            bits = np.unpackbits(drawn, axis=1, count=groups)
        # Flipping a sum takes it away twice.
        chosen = bits.astype(float)
        flipped.append(total - 2 * (chosen @ sums))
        counted.append(n - 2 * (chosen @ sizes))
    flipped, counted = np.concatenate(flipped), np.concatenate(counted)

    # Sums that are equal but for rounding are equal.
    slack = 1e-9 * max(float(np.abs(sums).sum()), 1e-300)
    larger, equal = np.abs(flipped) > abs(total) + slack, np.abs(np.abs(flipped) - abs(total)) <= slack
    ties = 0.5 if not every and np.count_nonzero(np.abs(sums) > slack) >= EXACT_BELOW else 1.0
    hits = larger.sum() + ties * equal.sum()
    p = hits / len(flipped) if every else (1 + hits) / (1 + len(flipped))
    means = sums / sizes
    if np.ptp(means) <= 1e-9 * np.abs(means).max():
        return float(min(1.0, p)), None, None
    low, high = _not_rejected(total, n, flipped, counted, every)
    return float(min(1.0, p)), low, high


def _not_rejected(
    total: float, n: float, flipped: np.ndarray, counted: np.ndarray, every: bool
) -> tuple[float | None, float | None]:
    """The differences at which at least 5% of the resamples lie as far out as what was seen.

    A resample with sum f over c documents (signed) is as far out at the difference d where |f - c d| >= |total - n d|,
    which holds between (total - f) / (n - c) and (total + f) / (n + c).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([(total - flipped) / (n - counted), (total + flipped) / (n + counted)])
    same = np.abs(np.abs(counted) - n) <= 1e-12 * n
    low = np.sort(np.where(same, -np.inf, ends.min(0)))
    high = np.sort(np.where(same, np.inf, ends.max(0)))[::-1]
    allowed = 1 - CONFIDENCE
    place = int(np.floor(allowed * len(low))) if every else int(np.floor(allowed * (len(low) + 1))) - 1
    return tuple(float(bound[place]) if np.isfinite(bound[place]) else None for bound in (low, high))
