"""What each document adds to a score, so that two scores can be set against each other document by document.

Right or wrong, an F1, a log-likelihood: a score that is their mean. A perplexity is exp(-sum of log-likelihoods / sum of
words), so its logarithm is compared: settings whose logarithms differ by 0.1 have perplexities 10% apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nha_eval.comparison.folders import ScoredTask
from nha_eval.plots._summary import LOWER_IS_BETTER, MAJORITY, metric_name, primary_metric


class Refused(ValueError):
    """Two scores that must not be compared, and why."""


@dataclass(frozen=True)
class Figures:
    """What is compared: `sums[doc]` over `weights[doc]` (documents, words or bytes), and their ratio over all documents."""

    name: str  # the metric, or `log METRIC`
    sums: dict[Any, float]
    weights: dict[Any, float]


def choose_metric(left: ScoredTask, right: ScoredTask, asked: str | None) -> str:
    """The metric `asked` for, or else the task's main one, of those that both sides have. Raises Refused."""
    shared = [metric for metric in left.rows if metric in right.rows and metric_name(metric) != MAJORITY]
    if asked is None:
        lower = (metric for metric in shared if metric_name(metric) in LOWER_IS_BETTER)
        found = primary_metric(shared) or next(lower, None)
        if found is None:
            raise Refused(f"no metric in common (A: {', '.join(left.rows)}; B: {', '.join(right.rows)})")
        return found
    matching = [metric for metric in shared if asked in (metric, metric_name(metric))]
    if not matching:
        there = ", ".join(shared) or "none in common"
        raise Refused(f"no metric {asked!r} (there: {there})")
    return matching[0]


def document_figures(task: ScoredTask, documents: dict[Any, dict], metric: str, letter: str) -> Figures:
    """Each document's part of the score. Raises Refused where the score is not made from such parts."""
    raw = {doc: _pair((record.get("metrics") or {}).get(metric)) for doc, record in documents.items()}
    without = [doc for doc, pair in raw.items() if pair is None]
    if without:
        raise Refused(
            f"{metric} is no number for {len(without)} of {letter}'s {len(raw)} documents, document {without[0]} first; "
            "choose another with --metric"
        )
    score, weight = task.rows[metric]["value"], math.fsum(pair[1] for pair in raw.values())
    mean = math.fsum(pair[0] for pair in raw.values()) / weight if weight > 0 else math.nan
    # lm-eval's three ways from documents to a score; which one it was shows in the score itself.
    forms = (
        (metric, 1.0, mean),
        (f"log {metric}", -1.0, math.exp(min(-mean, 700.0))),
        (metric, -1 / math.log(2), -mean / math.log(2)),
    )
    for name, factor, value in forms:
        if isinstance(score, int | float) and math.isclose(score, value, rel_tol=1e-9, abs_tol=1e-12):
            return Figures(
                name, {doc: factor * pair[0] for doc, pair in raw.items()}, {doc: pair[1] for doc, pair in raw.items()}
            )
    raise Refused(f"{metric} is no mean over documents, so that it cannot be paired by document; choose another with --metric")


def is_lower_better(name: str) -> bool:
    """Whether less of this metric, or of its logarithm, is better."""
    return metric_name(name.removeprefix("log ")) in LOWER_IS_BETTER


def _pair(value: Any) -> tuple[float, float] | None:
    """(sum, weight) of one document: lm-eval stores a number, or a pair with the words or bytes that it is over."""
    pair = value if isinstance(value, list) and len(value) == 2 else (value, 1.0)
    return tuple(map(float, pair)) if all(isinstance(part, int | float) for part in pair) else None
