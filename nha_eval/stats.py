"""Statistics of one score: standard errors, intervals, and Holm's correction. Nothing here knows of models or tasks.

A score over questions that share texts is worth fewer documents than it has: `effective_n` says how many independent ones
would give the same standard error, and intervals are those of that many. `paired` compares two scores.

    >>> clustered_stderr([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"])
    0.5
    >>> [round(bound, 3) for bound in score_interval([1.0] * 18, range(18))]
    [0.824, 1.0]
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm, t

CONFIDENCE = 0.95


def cluster_codes(clusters: Sequence[Hashable]) -> np.ndarray:
    """Each value's cluster as an integer from 0, [n]."""
    if len(clusters) == 0:
        return np.zeros(0, dtype=int)
    return np.unique(np.asarray([repr(c) for c in clusters]), return_inverse=True)[1]


def _checked(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray, int]:
    """Values [n], their clusters' codes [n], and the number of clusters."""
    x, codes = np.asarray(values, dtype=float), cluster_codes(clusters)
    if len(codes) != len(x):
        raise ValueError(f"{len(x)} values but {len(codes)} clusters; give each value its cluster")
    return x, codes, int(codes.max()) + 1 if len(codes) else 0


def clustered_stderr(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean of `values` where values of one cluster go together (questions on one text).

    With n values, mean m and G clusters,

        stderr^2 = G / (G - 1) * sum over clusters of (sum of (x - m) in the cluster)^2 / n^2,

    the cluster-robust variance of a regression on a constant (Liang and Zeger, Biometrika 73, 1986; for evaluations:
    Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 2.2) with the usual correction for few clusters
    (Cameron and Miller, J. Human Resources 50, 2015, section II). With every value a cluster of its own it is the
    sample standard error s / sqrt(n). None for fewer than two clusters, where it is not defined.
    """
    x, codes, groups = _checked(values, clusters)
    if groups < 2:
        return None
    sums = np.bincount(codes, weights=x - x.mean())
    return float(np.sqrt(groups / (groups - 1) * (sums**2).sum()) / len(x))


def bootstrap_stderr(
    statistic: Callable[[list[Any]], float], items: Sequence[Any], clusters: Sequence[Hashable], resamples: int, seed: int = 0
) -> float | None:
    """Standard error of `statistic(items)` for one that is no mean (a perplexity), whole clusters drawn with replacement.

    The spread of the resamples is widened by sqrt(G / (G - 1)), as in `clustered_stderr`, which it tends to for a mean
    (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). None for fewer than two clusters.
    """
    codes = cluster_codes(clusters)
    if len(codes) != len(items):
        raise ValueError(f"{len(items)} items but {len(codes)} clusters; give each item its cluster")
    groups = int(codes.max()) + 1 if len(codes) else 0
    if groups < 2:
        return None
    members = [np.flatnonzero(codes == group) for group in range(groups)]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = np.concatenate([members[group] for group in rng.integers(groups, size=groups)])
        found.append(float(statistic([items[i] for i in drawn])))
    return float(np.std(found, ddof=1) * np.sqrt(groups / (groups - 1)))


def is_right_or_wrong(values: Sequence[float]) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(np.asarray(values, dtype=float), (0.0, 1.0)).all())


def effective_n(values: Sequence[float], clusters: Sequence[Hashable], confidence: float = CONFIDENCE) -> float:
    """How many independent documents would tell as much as these: n over the design effect, never more than n.

    The design effect is the clustered variance over the one of independent values; the few clusters that it is estimated
    from are allowed for by (z / t)^2, with t at G - 1 degrees of freedom (Korn and Graubard, Survey Methodology 24, 1998).
    Values that are all the same tell nothing of how they go together; then only the clusters are counted.
    """
    x, codes, groups = _checked(values, clusters)
    if groups == len(x):
        return float(len(x))
    if groups < 2 or np.ptp(x) == 0:
        return float(groups)
    clustered, independent = clustered_stderr(x, codes) ** 2, x.var() / len(x)
    if clustered == 0:
        return float(len(x))
    tail = (1 + confidence) / 2
    few = (norm.ppf(tail) / t.ppf(tail, groups - 1)) ** 2
    return float(min(len(x), len(x) * independent / clustered * few))


def wilson_interval(share: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a share of n independent right or wrong answers; n may be a fraction, as `effective_n` gives it.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927. Unlike
    share +- 1.96 standard errors it has a width at 0 of n and n of n, and stays within 0 and 1.
    """
    if not (n > 0 and 0 <= share <= 1):
        raise ValueError(f"a share of {share} over {n} documents; wanted is a share from 0 to 1 over more than 0")
    z2 = norm.ppf((1 + confidence) / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At the ends the bound is the share itself, but for rounding.
    low = 0.0 if share == 0 else max(0.0, middle - half)
    high = 1.0 if share == 1 else min(1.0, middle + half)
    return float(low), float(high)


def score_interval(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Interval of the mean of `values`: Wilson's over the effective number of documents where they are right or wrong,
    else mean +- t standard errors, t at G - 1 degrees of freedom; None where neither is defined (no value, or one cluster
    of values that are not right or wrong).
    """
    x, codes, groups = _checked(values, clusters)
    if groups and is_right_or_wrong(x):
        return wilson_interval(float(x.mean()), effective_n(x, codes, confidence), confidence)
    stderr = clustered_stderr(x, codes)
    # No spread is no proof that there is none.
    if not stderr:
        return None
    half = float(t.ppf((1 + confidence) / 2, groups - 1)) * stderr
    return float(x.mean()) - half, float(x.mean()) + half


def holm(p: Sequence[float]) -> np.ndarray:
    """The p values of a table of tests, [n], raised so that all of them together err in 5% of tables at 5%.

    The smallest is multiplied by n, the next by n - 1 and so on, none below the one before it, none over 1 (S. Holm,
    "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statistics 6, 1979).
    """
    p = np.asarray(p, dtype=float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values from 0 to 1 are wanted, not {p[~((p >= 0) & (p <= 1))][0]}")
    order = np.argsort(p, kind="stable")
    raised = np.empty_like(p)
    raised[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return raised
