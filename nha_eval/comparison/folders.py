"""What a run folder scored: settings, their tasks, and each document's figures, from the cells and samples of its journal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nha_eval.errors import UserError
from nha_eval.journal import Journal

TaskKey = tuple[str, int | None]  # task, length in tokens (None: texts at their own length)


@dataclass(frozen=True)
class Setting:
    """A model at a window, as the tables call them."""

    model: str
    window: str

    def __str__(self) -> str:
        return f"{self.model}:{self.window}"


@dataclass(frozen=True)
class ScoredTask:
    """One task of one setting: its record in the journal, and where its documents lie."""

    record: dict[str, Any]
    samples: Path

    @property
    def cell(self) -> dict[str, Any]:
        return self.record["cell"]

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The score rows by metric; empty where the cell failed."""
        return {row["metric"]: row for row in self.record.get("rows") or []}

    def documents(self) -> dict[Any, dict[str, Any]]:
        """Each document's record by its `doc_id`, read once. Raises UserError when the file cannot be read."""
        return self._documents

    @cached_property
    def _documents(self) -> dict[Any, dict[str, Any]]:
        try:
            lines = self.samples.read_text(encoding="utf-8").splitlines()
            records = [json.loads(line) for line in lines if line]
            found = {record["doc_id"]: record for record in records}
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise UserError(
                f"{self.samples} cannot be read ({type(problem).__name__}): remove it, and give the run's `eval` command again"
            ) from problem
        if len(found) < len(records):
            raise UserError(f"{self.samples} holds a document twice: remove it, and give the run's `eval` command again")
        return found


@dataclass
class RunScores:
    """All that one run folder scored."""

    path: Path
    tasks: dict[Setting, dict[TaskKey, ScoredTask]] = field(default_factory=dict)
    name: str = ""  # what tables call the run
    broken: int = 0  # cells that cannot be read, or are without their samples

    def windows_of(self, setting: Setting) -> list[Any] | None:
        """The windows of the layers where the setting's window is a name; None elsewhere."""
        return next(iter(self.tasks[setting].values())).cell.get("windows")

    def settings_like(self, given: str) -> list[Setting]:
        """The setting MODEL:WINDOW, or all those of a model. A model's name may hold colons itself."""
        exact = [setting for setting in self.tasks if str(setting) == given]
        return exact or [setting for setting in self.tasks if setting.model == given]


def read_run(path: Path) -> RunScores:
    """Read a run folder, finished or not. Raises UserError when nothing in it was scored document by document."""
    journal, found = Journal(path), RunScores(path)
    newest: dict[tuple[Setting, TaskKey], str] = {}
    for file in sorted(journal.cells.glob("*.json")):
        record = journal.read(file.stem)
        if record is None:
            found.broken += 1
            continue
        cell = record.get("cell") or {}
        if cell.get("kind") != "score":
            continue
        setting, key = Setting(str(cell["model"]), str(cell["window"])), (cell["task"], cell.get("length"))
        # A task of a newer version leaves the older one's cell in the folder.
        when = str(record.get("finished", ""))
        if when >= newest.get((setting, key), ""):
            newest[setting, key] = when
            found.tasks.setdefault(setting, {})[key] = ScoredTask(record, journal.samples / f"{file.stem}.jsonl")
    if not any(task.record["status"] == "ok" for tasks in found.tasks.values() for task in tasks.values()):
        why = f"broken or without their samples: {found.broken} cells" if found.broken else "it has no scored cell"
        raise UserError(
            f"{path} holds no samples to compare ({why}): give the folder that `eval` wrote, with its cells/ and samples/"
        )
    found.tasks = dict(sorted(found.tasks.items(), key=lambda item: _order(item[0])))
    return found


def _order(setting: Setting) -> tuple[str, int, float, str]:
    number = setting.window.isdecimal()
    return setting.model, 0 if number else 1, float(setting.window) if number else 0.0, setting.window
