"""Which differences are real: the paired comparisons within a run, by suite and by task, as `compare` makes them.

Each setting is set against full attention, or in a run without any against its first setting; and NHA against the sliding
window alone, of one base at one window, which tells what the slots bring. Nothing is computed here that
`nha_eval.comparison` does not compute, so that a report and `compare RUN` never disagree. A run's cells and samples are
needed; where they are not there, as in a folder of tables alone, there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nha_eval.comparison.choose import Pair, Side, reference_pairs, slot_pairs
from nha_eval.comparison.figures import is_lower_better
from nha_eval.comparison.folders import RunScores, Setting
from nha_eval.comparison.show import chance, documents, notes, task
from nha_eval.comparison.table import LEVEL, MISSING, NO_DIFFERENCE, OK, TOO_FEW, Only, compare_all
from nha_eval.plots._frames import Frames, clean_text
from nha_eval.plots._settings import setting_label, settings_of, suite_label

from .tables import Table

# As the tables of scores: longer ones are read by a machine.
_MOST_ROWS = 600
TITLE = "Which differences are real"
SLOTS_TITLE = "What the slots bring"
# Of the difference in a score that the tables hold and the one that was tested: the same but for rounding.
_SAME = 1e-6


@dataclass(frozen=True)
class Differences:
    """The rows of `compare` with `--by suite` and without, as `comparison.show.COLUMNS` has them, and by suite those of NHA
    against the window alone; empty where the run has nothing to pair."""

    suites: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    slots: list[dict[str, Any]] = field(default_factory=list)

    def of_suite(self, setting: tuple[str, str], suite: str, length: float, difference: float) -> dict[str, Any] | None:
        """The row that tested this `difference` of a suite's score (setting less reference) at `length` tokens (NaN: texts at
        their own); None where there is none, or where it is of other tasks or documents."""
        rows = (row for row in self.suites if _setting(row, "a") == setting)
        return _tested(rows, suite, length, difference)

    def is_significant(self, setting: tuple[str, str], suite: str, length: float, values: dict[tuple[str, str], float]) -> bool:
        """Whether a setting's score differs from its reference's; `values` are the scores that are shown, by setting."""
        for row in self.suites:
            if row["status"] == OK and _setting(row, "a") == setting and (reference := _setting(row, "b")) in values:
                found = self.of_suite(setting, suite, length, values[setting] - values[reference])
                if found is not None:
                    return found["verdict"] not in (NO_DIFFERENCE, TOO_FEW)
        return False

    def of_slots(self, a: tuple[str, str], b: tuple[str, str], suite: str, length: float, difference: float) -> dict | None:
        """As `of_suite`, of the settings `a` with slots and `b` without."""
        rows = (row for row in self.slots if (_setting(row, "a"), _setting(row, "b")) == (a, b))
        return _tested(rows, suite, length, difference)


def _tested(rows: Iterable[dict[str, Any]], suite: str, length: float, difference: float) -> dict[str, Any] | None:
    for row in rows:
        if row["status"] != OK or is_lower_better(row["metric"]):
            continue
        at = math.nan if row["length"] is None else row["length"]
        same_length = at == length or (math.isnan(at) and math.isnan(length))
        if clean_text(row["suite"]) == suite and same_length:
            return row if math.isclose(row["difference"], difference, abs_tol=_SAME) else None
    return None


def significance(row: dict[str, Any]) -> str:
    """`the loss is significant, p = 0.012`; p is Holm's."""
    p = chance(row["p_holm"])
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    if row["verdict"] == TOO_FEW:
        return f"too few contexts to tell, {p}"
    if row["verdict"] == NO_DIFFERENCE:
        return f"no difference shown, {p}"
    return f"the {'gain' if row['difference'] > 0 else 'loss'} is significant, {p}"


def find_differences(run: RunScores | None, frames: Frames) -> Differences:
    """What the samples show. Empty with fewer than two settings, or without samples. Raises UserError where a file of
    samples that was whole a moment ago cannot be read."""
    pairs, slots = find_pairs(run, frames)
    if not pairs:
        return Differences()
    by_suite, by_task = (compare_all(pairs, Only(by=by)) for by in ("suite", "task"))
    return Differences(by_suite, by_task, compare_all(slots, Only(by="suite")) if slots else [])


def find_pairs(run: RunScores | None, frames: Frames) -> tuple[list[Pair], list[Pair]]:
    """The settings that are compared, each with its reference, and NHA with the window alone; a pair holds tasks of suites that
    both were scored in, as suites that must not be compared bear unlike names."""
    settings = settings_of(frames.scores)
    if run is None or len(settings) < 2:
        return [], []
    suites = list(dict.fromkeys(str(task.cell.get("suite")) for tasks in run.tasks.values() for task in tasks.values()))
    whole = reference_pairs(run, _first(run, settings)), slot_pairs(run)
    if len(suites) < 2 or not _overlapping(run):
        return whole
    parts = [_of_suite(run, suite) for suite in suites]
    return tuple(
        [
            (Side(part, a.setting), Side(part, b.setting))
            for a, b in pairs
            for part in parts
            if a.setting in part.tasks and b.setting in part.tasks
        ]
        for pairs in whole
    )


def _overlapping(run: RunScores) -> bool:
    """Whether one task is in several suites, as where runs were joined whose scores of it must not be compared."""
    suites: dict[str, set[str]] = {}
    for tasks in run.tasks.values():
        for (name, _), scored in tasks.items():
            suites.setdefault(name, set()).add(str(scored.cell.get("suite")))
    return any(len(own) > 1 for own in suites.values())


def _of_suite(run: RunScores, suite: str) -> RunScores:
    own = {
        setting: {key: task for key, task in tasks.items() if str(task.cell.get("suite")) == suite}
        for setting, tasks in run.tasks.items()
    }
    return RunScores(run.path, {setting: tasks for setting, tasks in own.items() if tasks}, run.name)


def _first(run: RunScores, settings: list[tuple[str, str]]) -> Setting:
    """The setting that the report's tables name first."""
    places = {setting: place for place, setting in enumerate(settings)}
    return min(run.tasks, key=lambda one: places.get((clean_text(one.model), clean_text(one.window)), len(places)))


def difference_text(found: Differences) -> list[str]:
    """What the tables are; what was left out or refused."""
    compared = [row for row in found.suites if row["status"] == OK]
    if not compared:
        return []
    slots = any(row["status"] == OK for row in found.slots)
    few = f"{len(compared)} comparison{'' if len(compared) == 1 else 's'}"
    how = (
        "Each setting and its reference answered the same documents, and are compared document by document, contexts kept "
        f"together. Difference: setting less reference, with a 95% interval by itself. Significant: p below {LEVEL} after "
        f"Holm's correction over the table's {few}; the headline's p are these. “No difference shown” does not mean equal: "
        "the interval says how much could be there. “Too few to tell”: with so few contexts no outcome could have been "
        "significant in this table. As `compare RUN --by suite` gives it (docs/COMPARE.md)."
        + (f" “{SLOTS_TITLE}”: NHA against the sliding window alone at the same window, corrected by itself." if slots else "")
    )
    return [how, *(clean_text(note, 400) for note in notes([row for row in found.suites if row["status"] != MISSING]))]


def suite_differences(found: Differences) -> Table | None:
    """A row a setting and suite; None where nothing was compared."""
    return _table(TITLE, "suite", found.suites)


def slot_differences(found: Differences) -> Table | None:
    """A row a suite and window, with a correction of its own; None where the run has no such pair."""
    return _table(SLOTS_TITLE, "suite", found.slots)


def task_differences(found: Differences) -> Table | None:
    """A row a setting and task, with a correction of its own; None where nothing was compared."""
    return _table("The same by task", "task", found.tasks)


def _table(title: str, by: str, rows: list[dict[str, Any]]) -> Table | None:
    compared = [row for row in rows if row["status"] == OK]
    if not compared:
        return None
    groups = [(clean_text(row["suite"]), _length(row)) for row in compared]
    lines = []
    for row, (_, length) in zip(compared[:_MOST_ROWS], groups, strict=False):
        # A perplexity enters no suite's mean: it is a row of its own there.
        what = row["suite"] if by == "suite" and not is_lower_better(row["metric"]) else task(row)
        sides = [setting_label(_setting(row, letter), 60) for letter in "ab"]
        lines.append([*sides, suite_label(what, length, groups, 72), *_figures(row)])
    columns = ["setting", "reference", by, "score", "reference's", "difference"]
    columns += ["95% interval", "p", "p, Holm", "documents paired", "finding"]
    return Table(title, columns, lines, labels=3, left_out=len(compared) - len(lines))


def _figures(row: dict[str, Any]) -> list[str]:
    low, high = (row[bound] for bound in ("ci_low", "ci_high"))
    told = [f"{row['value_a']:.3f}", f"{row['value_b']:.3f}", f"{row['difference']:+.3f}"]
    bounds = ["no bound" if bound is None else f"{bound:+.3f}" for bound in (low, high)]
    told.append("none" if low is None and high is None else " to ".join(bounds))
    finding = {"A is better": "better", "B is better": "worse"}.get(row["verdict"], row["verdict"])
    return [*told, chance(row["p"]), chance(row["p_holm"]), documents(row), finding]


def _setting(row: dict[str, Any], letter: str) -> tuple[str, str]:
    return clean_text(row[f"model_{letter}"]), clean_text(row[f"window_{letter}"])


def _length(row: dict[str, Any]) -> float:
    return math.nan if row["length"] is None else float(row["length"])
