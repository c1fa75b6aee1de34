"""Two settings on one task: may they be compared, on which documents, and each document's figures on both sides."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from nha_eval.comparison.figures import Refused, choose_metric, document_figures
from nha_eval.comparison.folders import ScoredTask

# What a task's prompts are made from, beside its version.
_MADE_FROM = ("seed", "contexts", "limit")


@dataclass(frozen=True)
class Matched:
    """The documents that both sides have, n of them, in one order."""

    metric: str
    a: list[float]  # [n]; the score is sum(a) / sum(weights)
    b: list[float]  # [n]
    weights: list[float]  # [n]
    clusters: list[Hashable]  # [n], documents of one text alike, of whatever task
    left_out_a: int  # documents that A alone has
    left_out_b: int


def match(left: ScoredTask, right: ScoredTask, metric: str | None = None) -> Matched:
    """Pair the documents of A's and B's scores of one task. Raises Refused where they must not be compared."""
    for name, words in (("protocol", "protocols"), ("task_version", "versions of the task")):
        one, other = left.cell.get(name), right.cell.get(name)
        if one != other:
            raise Refused(f"other {words}: A's is {one}, B's {other}; scores of unlike {words} measure unlike things")
    metric = choose_metric(left, right, metric)
    a, b = left.documents(), right.documents()
    shared = [doc for doc in a if doc in b]
    if not shared:
        raise Refused(f"no document in common ({len(a)} in A, {len(b)} in B)")
    _check_prompts(left, right, [(doc, a[doc], b[doc]) for doc in shared])
    one, other = (document_figures(task, docs, metric, letter) for task, docs, letter in ((left, a, "A"), (right, b, "B")))
    unlike = [doc for doc in shared if one.weights[doc] != other.weights[doc]]
    if one.name != other.name or unlike:
        raise Refused(f"{metric} is over other amounts of text in A and B, so that it cannot be paired by document")
    contexts = {doc: a[doc].get("context_id") for doc in shared}
    return Matched(
        one.name,
        *([figures[doc] for doc in shared] for figures in (one.sums, other.sums, one.weights)),
        # A document without a context stands for itself alone.
        [(left.cell["task"], doc) if contexts[doc] is None else str(contexts[doc]) for doc in shared],
        len(a) - len(shared),
        len(b) - len(shared),
    )


def _check_prompts(left: ScoredTask, right: ScoredTask, documents: list[tuple[Any, dict, dict]]) -> None:
    """Raise Refused where a document was asked in other words, or has another right answer, on the two sides."""
    for field, what in (("prompt_hash", "prompts"), ("gold", "right answers")):
        other = [doc for doc, a, b in documents if a.get(field) != b.get(field)]
        if other:
            unlike = [name for name in _MADE_FROM if left.cell.get(name) != right.cell.get(name)]
            why = ", ".join(f"{name} {left.cell.get(name)} against {right.cell.get(name)}" for name in unlike)
            raise Refused(
                f"other {what} in {len(other)} of {len(documents)} shared documents, document {other[0]} first "
                f"({why or 'the data or the template has changed'}); only scores of the same prompts can be paired"
            )
