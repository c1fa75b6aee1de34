"""Two settings on one task: may they be compared, on which documents, and what comes out; then a whole table of such.

A row that is compared is `ok`; one that must not be (other protocol, version or prompts) is `refused`; one that is not there
on both sides is `missing`. Both of the latter say why, and take no part in the correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nha_eval.comparison.choose import Pair, Side
from nha_eval.comparison.figures import Refused, choose_metric, document_figures, is_lower_better
from nha_eval.comparison.folders import ScoredTask, TaskKey
from nha_eval.errors import UserError, nearest
from nha_eval.paired import compare_pairs
from nha_eval.stats import holm

OK, REFUSED, MISSING = "ok", "refused", "missing"
LEVEL = 0.05  # of the table as a whole
NO_DIFFERENCE = "no difference shown"
# What a task's prompts are made from, beside its version.
_MADE_FROM = ("seed", "contexts", "limit")


@dataclass(frozen=True)
class Only:
    """What of the runs is compared; None for all, and for each task's main metric."""

    suites: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    lengths: tuple[int, ...] | None = None  # tokens
    metric: str | None = None

    def takes(self, task: ScoredTask) -> bool:
        cell = task.cell
        chosen = ((self.suites, cell["suite"]), (self.tasks, cell["task"]), (self.lengths, cell.get("length")))
        return all(wanted is None or value in wanted for wanted, value in chosen)


def compare_all(pairs: list[Pair], only: Only, *, seed: int = 0) -> list[dict[str, Any]]:
    """A row (see `show.COLUMNS`) a pair and task, p values corrected over all rows that are `ok`. Raises UserError where
    `only` leaves nothing.
    """
    chosen = [(pair, key) for pair in pairs for key in _tasks(pair, only)]
    if not chosen:
        raise UserError(_none_chosen(pairs, only))
    rows = [_row(pair, key, only.metric, seed) for pair, key in chosen]
    compared = [row for row in rows if row["status"] == OK]
    for row, p in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = float(p)
        row["verdict"] = _verdict(row)
    return rows


def _tasks(pair: Pair, only: Only) -> list[TaskKey]:
    keys: dict[TaskKey, str] = {}
    for side in pair:
        for key, task in side.run.tasks[side.setting].items():
            if only.takes(task):
                keys.setdefault(key, str(task.cell["suite"]))
    return sorted(keys, key=lambda key: (keys[key], key[0], key[1] or 0))


def _none_chosen(pairs: list[Pair], only: Only) -> str:
    cells = [task.cell for pair in pairs for side in pair for task in side.run.tasks[side.setting].values()]
    for option, wanted, name in (
        ("suite", only.suites, "suite"),
        ("task", only.tasks, "task"),
        ("length", only.lengths, "length"),
    ):
        known = list(dict.fromkeys(str(cell[name]) for cell in cells if cell.get(name) is not None))
        unknown = [str(value) for value in wanted or () if str(value) not in known]
        if unknown:
            return f"--{option} {unknown[0]}: nothing of it was scored there; {nearest(unknown[0], known, what='scored')}"
    return "--suite, --task and --length together leave nothing to compare: leave one out"


def _row(pair: Pair, key: TaskKey, metric: str | None, seed: int) -> dict[str, Any]:
    a, b = pair
    row: dict[str, Any] = {"task": key[0], "length": key[1]}
    for side, letter in ((a, "a"), (b, "b")):
        row |= {f"run_{letter}": side.run.name, f"model_{letter}": side.setting.model, f"window_{letter}": side.setting.window}
    left, right = (side.run.tasks[side.setting].get(key) for side in pair)
    cell = (left or right).cell
    row |= {name: cell.get(name) for name in ("suite", "task_version", "protocol")}
    missing = "; ".join(filter(None, (_missing(a, left, "A"), _missing(b, right, "B"))))
    if missing:
        return {**row, "status": MISSING, "reason": missing}
    try:
        return {**row, "status": OK, **_compared(left, right, metric, seed)}
    except Refused as why:
        return {**row, "status": REFUSED, "reason": str(why)}


def _missing(side: Side, task: ScoredTask | None, letter: str) -> str | None:
    if task is None:
        return f"{letter} has no score of it"
    if task.record["status"] != OK:
        return f"{letter} is {task.record['status']}: {task.record.get('reason') or 'no reason was recorded'}"
    return None


def _compared(left: ScoredTask, right: ScoredTask, metric: str | None, seed: int) -> dict[str, Any]:
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
    contexts = [doc if a[doc].get("context_id") is None else str(a[doc]["context_id"]) for doc in shared]
    # A number and a context's name never meet.
    clusters = [(type(context).__name__, context) for context in contexts]
    sums = ([side.sums[doc] for doc in shared] for side in (one, other))
    found = compare_pairs(*sums, clusters, weights=[one.weights[doc] for doc in shared], seed=seed)
    return {
        **{"metric": one.name, "value_a": found.value_a, "value_b": found.value_b, "difference": found.difference},
        **{"ci_low": found.low, "ci_high": found.high, "n": found.n, "clusters": found.clusters},
        **{"right_a_alone": found.a_alone, "right_b_alone": found.b_alone},
        **{"left_out_a": len(a) - len(shared), "left_out_b": len(b) - len(shared), "test": found.test, "p": found.p},
    }


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


def _verdict(row: dict[str, Any]) -> str:
    if row["p_holm"] >= LEVEL or row["difference"] == 0:
        return NO_DIFFERENCE
    return "A is better" if (row["difference"] > 0) != is_lower_better(row["metric"]) else "B is better"
