"""How far a run has come, read from its folder again and again while somebody else writes it. Nothing is asked of the run.

    from nha_eval.watching import Watched
    standing = Watched(Path("results/runs/quickstart")).look()

Cells that are done lie in `cells/`, those in hand have answers in `answers/`; a run whose shares are worked on by several
machines has both in each of `shares/`. This module imports neither torch nor pandas.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from nha_eval import environment
from nha_eval.journal import FINAL, Journal
from nha_eval.plan import Cell
from nha_eval.progress import headline
from nha_eval.store import SHARES

# The pace is that of so many cells at the end: earlier ones may be of another day.
_RECENT = 20
# Answers older than this are what a broken run left, in seconds.
_STALE = 600.0


@dataclass(frozen=True)
class Standing:
    """A run at one moment. `done`: cells by status; `latest`: (what, figure, seconds), newest first; `hand`: (cell, batches
    answered, seconds since the last); `failed`: (what, reason); `left`, `quiet`: seconds until the end at the recent pace, and
    since anything changed, None where not known.
    """

    planned: int | None
    done: Counter[str]
    latest: list[tuple[str, str, float]]
    hand: list[tuple[str, int, float]]
    failed: list[tuple[str, str]]
    left: float | None
    quiet: float | None

    @property
    def finished(self) -> bool:
        """Whether every cell has ended as it will: those that failed are tried again by the same command."""
        return self.planned is not None and sum(self.done.values()) >= self.planned


class Watched:
    """A run folder. Each look reads what is new since the last."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._read: dict[str, tuple[int, dict[str, Any]]] = {}  # cell -> (when its file was written, its record)

    def look(self, now: float | None = None) -> Standing:
        """now: seconds since the epoch; None: by the clock."""
        now = time.time() if now is None else now
        places = [self.folder, *sorted((self.folder / SHARES).glob("*/"))]
        for place in places:
            self._read_cells(Journal(place))
        records = {cell: record for cell, (_, record) in self._read.items()}
        found = sorted(records.values(), key=lambda record: record.get("finished") or "", reverse=True)
        shown = [(_cell(record).what, _figure(record), float(record.get("seconds") or 0)) for record in found[:8]]
        failed = [(_cell(record).what, str(record.get("reason"))) for record in found if record["status"] not in FINAL]
        hand, newest = self._in_hand(places, records, now)
        times = [moment for record in found[:_RECENT] if (moment := _moment(record)) is not None]
        planned = environment.planned_cells(environment.read(self.folder))
        done = Counter(record["status"] for record in records.values())
        changed = max([*times[:1], *newest], default=None)
        return Standing(
            planned,
            done,
            shown,
            hand,
            failed,
            _left(planned, sum(done.values()), times),
            None if changed is None else max(0.0, now - changed),
        )

    def _read_cells(self, journal: Journal) -> None:
        for path in journal.cells.glob("*.json"):
            with contextlib.suppress(OSError):
                written = path.stat().st_mtime_ns
                if self._read.get(path.stem, (None,))[0] != written and (record := journal.read(path.stem)) is not None:
                    self._read[path.stem] = written, record

    @staticmethod
    def _in_hand(places: list[Path], records: dict[str, Any], now: float) -> tuple[list[tuple[str, int, float]], list[float]]:
        hand, moments = [], []
        for place in places:
            for path in sorted(Journal(place).answers.glob("*.jsonl")):
                with contextlib.suppress(OSError):
                    moments.append(path.stat().st_mtime)
                    if path.stem not in records and now - moments[-1] < _STALE:
                        lines = path.read_bytes().count(b"\n")
                        hand.append((path.stem.rpartition("--")[0] or path.stem, lines, max(0.0, now - moments[-1])))
        return hand, moments


def _cell(record: dict[str, Any]) -> Cell:
    """The record's cell; what it does not say is None."""
    about = record.get("cell") or {}
    return Cell(**{field.name: about.get(field.name) for field in fields(Cell)})


def _figure(record: dict[str, Any]) -> str:
    try:
        return headline(_cell(record), record)
    except (TypeError, KeyError, IndexError, ValueError):
        return str(record.get("status"))


def _moment(record: dict[str, Any]) -> float | None:
    try:
        return datetime.fromisoformat(record["finished"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def _left(planned: int | None, done: int, times: list[float]) -> float | None:
    """times: of the last cells, newest first."""
    if planned is None or done >= planned:
        return 0.0 if planned is not None else None
    if len(times) < 2 or times[0] <= times[-1]:
        return None
    return (times[0] - times[-1]) / (len(times) - 1) * (planned - done)
