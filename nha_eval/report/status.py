"""How far a run has come: its cells by status, and those that could not be run with their reasons."""

from __future__ import annotations

from dataclasses import dataclass

from nha_eval.plots._frames import Frames, clean_text, model_order
from nha_eval.plots._settings import window_label

from .tables import MISSING, Table, count

STATUSES = ("ok", "oom", "unavailable", "error")
_SCORE_CELL = ["model", "window", "suite", "task", "length"]
_COST_CELL = ["model", "window", "phase", "length", "batch_size"]
_MOST_ROWS = 200


@dataclass(frozen=True)
class Status:
    """Cells of a run by status; `planned` is None where the run does not say how many it wants."""

    counts: dict[str, int]
    scored: int
    timed: int
    observed: int
    planned: int | None
    models_missing: int = 0
    models_wanted: int = 0

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    @property
    def finished(self) -> bool | None:
        """None where the run does not say how many cells it wants and nothing shows that some are missing."""
        if self.planned is None:
            return False if self.models_missing else None
        return self.done >= self.planned

    def sentence(self) -> str:
        """One line in words: finished or not, how many cells, how many of them failed and how."""
        bad = ", ".join(f"{number} {status}" for status, number in self.counts.items() if status != "ok" and number)
        observed = f", {self.observed:,} observed" if self.observed else ""
        cells = f"{self.done:,} cell{'' if self.done == 1 else 's'} ({self.scored:,} scored, {self.timed:,} timed{observed})"
        quality = f"{bad}, the others ok" if bad and self.counts["ok"] else bad or "all ok"
        if self.planned is not None and self.done < self.planned:
            far = f"This run is unfinished: {self.done:,} of {self.planned:,} cells are done"
            return f"{far}; {quality}. Give the same command again to go on." if self.done else f"{far}."
        if self.planned is None and self.models_missing and self.done:
            missing = f"{self.models_missing} of the {self.models_wanted} models that the spec names left nothing yet"
            return f"This run is unfinished: {missing}. {cells}; {quality}."
        if not self.done:
            return "No cell of this run has been finished yet."
        finished = "This run is finished: " if self.planned is not None else ""
        return f"{finished}{cells}; {quality}."


def run_status(frames: Frames, planned: int | None, spec: dict) -> Status:
    """Counts cells, not rows: a cell that left several metrics counts once, under its worst status."""
    counts = dict.fromkeys(STATUSES, 0)
    numbers = []
    tables = (frames.scores, _SCORE_CELL), (frames.costs, _COST_CELL), (frames.telemetry, _SCORE_CELL)
    for table, key in tables:
        number = 0
        for _, rows in table.groupby(key, dropna=False, sort=False):
            worst = max(rows["status"], key=lambda status: STATUSES.index(status) if status in STATUSES else len(STATUSES))
            worst = clean_text(worst, 24) or "error"
            counts[worst] = counts.get(worst, 0) + 1
            number += 1
        numbers.append(number)
    wanted = spec.get("models")
    wanted = len(wanted) if isinstance(wanted, list) else 0
    missing = max(0, wanted - len(model_order(frames.scores, frames.costs)))
    return Status(counts, *numbers, planned, missing, wanted)


def failures(frames: Frames) -> Table | None:
    """What could not be run and why, rows of the same reason joined over windows; None when everything that was run
    is ok."""
    found: dict[tuple[str, ...], list[str]] = {}
    for table, what in ((frames.scores, "task"), (frames.costs, "phase"), (frames.telemetry, "task")):
        bad = table[table["status"] != "ok"]
        for row in bad.itertuples():
            key = (
                clean_text(row.model, 60),
                clean_text(getattr(row, what), 60) or MISSING,
                count(row.length),
                clean_text(row.status, 24),
                clean_text(row.reason, 300) or "no reason was recorded",
            )
            windows = found.setdefault(key, [])
            label = window_label(row.window).removeprefix("window ")
            if label not in windows:
                windows.append(label)
    if not found:
        return None
    rows = [[model, ", ".join(windows), what, *rest] for (model, what, *rest), windows in found.items()]
    columns = ["model", "windows", "task or phase", "length", "status", "reason"]
    return Table(
        "What could not be run, and why", columns, rows[:_MOST_ROWS], len(columns), left_out=max(0, len(rows) - _MOST_ROWS)
    )
