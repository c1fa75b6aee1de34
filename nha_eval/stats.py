"""Statistics of scores, in plain numpy: nothing here knows of models or tasks.

>>> clustered_stderr([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"])
0.5
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def clustered_stderr(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Standard error of the mean of `values` where values of one cluster go together (questions on one text).

    With n values, mean m and G clusters,

        stderr^2 = G / (G - 1) * sum over clusters of (sum of (x - m) in the cluster)^2 / n^2,

    the cluster-robust variance of a regression on a constant (Liang and Zeger, Biometrika 73, 1986; for evaluations:
    Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 2.2) with the usual correction for few clusters
    (Cameron and Miller, J. Human Resources 50, 2015, section II). With every value a cluster of its own it is the
    sample standard error s / sqrt(n). None for fewer than two clusters, where it is not defined.
    """
    x = np.asarray(values, dtype=float)
    _, cluster_of = np.unique(np.asarray([repr(c) for c in clusters]), return_inverse=True)
    if len(cluster_of) != len(x):
        raise ValueError(f"{len(x)} values but {len(cluster_of)} clusters; give each value its cluster")
    if len(x) == 0 or (groups := int(cluster_of.max()) + 1) < 2:
        return None
    sums = np.bincount(cluster_of, weights=x - x.mean())
    return float(np.sqrt(groups / (groups - 1) * (sums**2).sum()) / len(x))
