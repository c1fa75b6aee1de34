"""The rows of a table of comparisons: a task each, or a suite each, and Holm's correction over all of them.

A row that is compared is `ok`; one that must not be (other protocol, version or prompts) is `refused`; one that is not there
on both sides is `missing`. Both of the latter say why, and take no part in the correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nha_eval.comparison.choose import Pair, Side
from nha_eval.comparison.figures import Refused, is_lower_better
from nha_eval.comparison.folders import ScoredTask, TaskKey
from nha_eval.comparison.pairing import Matched, match
from nha_eval.errors import UserError, nearest
from nha_eval.paired import Paired, compare_pairs
from nha_eval.stats import holm

OK, REFUSED, MISSING = "ok", "refused", "missing"
LEVEL = 0.05  # of the table as a whole
NO_DIFFERENCE = "no difference shown"
TOO_FEW = "too few to tell"  # contexts: whatever their answers, no p of the table could have been below LEVEL
BY = ("task", "suite")


@dataclass(frozen=True)
class Only:
    """What of the runs is compared, and what a row is; None for all, and for each task's main metric."""

    suites: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    lengths: tuple[int, ...] | None = None  # tokens
    metric: str | None = None
    by: str = "task"  # or suite: the mean over its tasks

    def takes(self, task: ScoredTask) -> bool:
        cell = task.cell
        chosen = ((self.suites, cell["suite"]), (self.tasks, cell["task"]), (self.lengths, cell.get("length")))
        return all(wanted is None or value in wanted for wanted, value in chosen)


def compare_all(pairs: list[Pair], only: Only, *, seed: int = 0) -> list[dict[str, Any]]:
    """The rows (see `show.COLUMNS`), p values corrected over all that are `ok`.

    Raises UserError for a suite, task or length that was not scored, and where `only` leaves no row.
    """
    _check_names(pairs, only)
    rows = [row for pair in pairs for row in _rows(pair, only, seed)]
    if not rows:
        raise UserError("--suite, --task and --length together leave nothing to compare: leave one out")
    compared = [row for row in rows if row["status"] == OK]
    for row, p in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = float(p)
        row["verdict"] = _verdict(row, len(compared))
    return rows


def _rows(pair: Pair, only: Only, seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    suites: dict[tuple[str, int | None], list[tuple[dict[str, Any], Matched]]] = {}
    for key in _tasks(pair, only):
        row, matched = _task(pair, key, only.metric)
        if matched is None:
            rows.append(row)
        elif only.by == "task" or is_lower_better(matched.metric):
            found = compare_pairs(matched.a, matched.b, matched.clusters, weights=matched.weights, seed=seed)
            rows.append({**row, **_figures(found)})
        else:
            suites.setdefault((row["suite"], key[1]), []).append((row, matched))
    return rows + [_suite(members, seed) for members in suites.values()]


def _tasks(pair: Pair, only: Only) -> list[TaskKey]:
    keys: dict[TaskKey, str] = {}
    for side in pair:
        for key, task in side.run.tasks[side.setting].items():
            if only.takes(task):
                keys.setdefault(key, str(task.cell["suite"]))
    return sorted(keys, key=lambda key: (keys[key], key[0], key[1] or 0))


def _check_names(pairs: list[Pair], only: Only) -> None:
    """Raise UserError for a suite, task or length that neither side of any pair has."""
    cells = [task.cell for pair in pairs for side in pair for task in side.run.tasks[side.setting].values()]
    for name, wanted in (("suite", only.suites), ("task", only.tasks), ("length", only.lengths)):
        known = list(dict.fromkeys(str(cell[name]) for cell in cells if cell.get(name) is not None))
        unknown = [str(value) for value in wanted or () if str(value) not in known]
        if unknown:
            raise UserError(f"--{name} {unknown[0]}: nothing of it was scored; {nearest(unknown[0], known, what='scored')}")


def _task(pair: Pair, key: TaskKey, metric: str | None) -> tuple[dict[str, Any], Matched | None]:
    """A task's row without its figures, and its documents where they may be compared."""
    a, b = pair
    row: dict[str, Any] = {"task": key[0], "length": key[1]}
    for side, letter in ((a, "a"), (b, "b")):
        row |= {f"run_{letter}": side.run.name, f"model_{letter}": side.setting.model, f"window_{letter}": side.setting.window}
    left, right = (side.run.tasks[side.setting].get(key) for side in pair)
    cell = (left or right).cell
    row |= {name: cell.get(name) for name in ("suite", "task_version", "protocol")}
    missing = "; ".join(filter(None, (_missing(a, left, "A"), _missing(b, right, "B"))))
    if missing:
        return {**row, "status": MISSING, "reason": missing}, None
    try:
        matched = match(left, right, metric)
    except Refused as why:
        return {**row, "status": REFUSED, "reason": str(why)}, None
    left_out = {"left_out_a": matched.left_out_a, "left_out_b": matched.left_out_b}
    return {**row, "status": OK, "metric": matched.metric, **left_out}, matched


def _missing(side: Side, task: ScoredTask | None, letter: str) -> str | None:
    if task is None:
        return f"{letter} has no score of it"
    if task.record["status"] != OK:
        return f"{letter} is {task.record['status']}: {task.record.get('reason') or 'no reason was recorded'}"
    return None


def _suite(members: list[tuple[dict[str, Any], Matched]], seed: int) -> dict[str, Any]:
    """One row of several tasks, each of which weighs as much as any other; a text that several ask about is one cluster.

    Documents are set against the suite's mean, not their task's, so that tasks that disagree make the interval wider.
    """
    a, b, weights, clusters = [], [], [], []
    for _, matched in members:
        # Sums to one over the suite, so that the score is the mean of the tasks' scores.
        scale = 1 / (len(members) * sum(matched.weights))
        a += [scale * value for value in matched.a]
        b += [scale * value for value in matched.b]
        weights += [scale * weight for weight in matched.weights]
        clusters += matched.clusters
    if len(members) == 1:
        a, b, weights = members[0][1].a, members[0][1].b, members[0][1].weights
    rows = [row for row, _ in members]
    joined = {name: "/".join(dict.fromkeys(str(row[name]) for row in rows)) for name in ("task_version", "protocol", "metric")}
    task = rows[0]["task"] if len(rows) == 1 else f"mean of {len(rows)} tasks"
    left_out = {name: sum(row[name] for row in rows) for name in ("left_out_a", "left_out_b")}
    found = compare_pairs(a, b, clusters, weights=weights, seed=seed)
    return {**rows[0], **joined, **left_out, "task": task, **_figures(found)}


def _figures(found: Paired) -> dict[str, Any]:
    return {
        **{"value_a": found.value_a, "value_b": found.value_b, "difference": found.difference},
        **{"ci_low": found.low, "ci_high": found.high, "n": found.n, "clusters": found.clusters},
        **{"right_a_alone": found.a_alone, "right_b_alone": found.b_alone, "test": found.test, "p": found.p},
    }


def _verdict(row: dict[str, Any], compared: int) -> str:
    if row["p_holm"] >= LEVEL or row["difference"] == 0:
        # Both tests' least p: all contexts that differ do so in one direction. Holm multiplies the table's least by its rows.
        least = compared * 2.0 ** (1 - row["clusters"])
        return TOO_FEW if least >= LEVEL and row["difference"] else NO_DIFFERENCE
    return "A is better" if (row["difference"] > 0) != is_lower_better(row["metric"]) else "B is better"
