"""A run folder as a report reads it: its tables, what was scored document by document, and what it says of itself.

Each of its files may be missing or unfinished.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from nha_eval import yamls
from nha_eval.comparison.folders import RunScores, read_run
from nha_eval.environment import planned_cells
from nha_eval.errors import UserError
from nha_eval.plots._frames import Frames, clean_block, clean_text, load_frames

from .status import Status, run_status


@dataclass(frozen=True)
class Run:
    """One run. `name` is its folder's; `scored` is None where no sample of it can be read."""

    name: str
    frames: Frames
    scored: RunScores | None
    environment: dict
    spec: str  # spec.yaml, printable
    status: Status
    place: int = 1  # among the runs of a report

    @property
    def command(self) -> str:
        """The command line that made it, printable."""
        command = self.environment.get("command") or ""
        return clean_block(shlex.join(map(str, command)) if isinstance(command, list) else str(command))


def read_folder(folder: str | Path) -> Run:
    """The run in `folder`. ValueError when the folder does not exist or a table in it cannot be read."""
    folder = Path(folder)
    frames = load_frames(folder)
    environment = _read_json(folder / "environment.json")
    spec = _read_text(folder / "spec.yaml")
    status = run_status(frames, planned_cells(environment), _read_spec(spec))
    try:
        scored = read_run(folder)
    except UserError:
        scored = None
    return Run(clean_text(folder.resolve().name, 80) or "run", frames, scored, environment, clean_block(spec), status)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_spec(text: str) -> dict:
    try:
        content = yamls.load(text)
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}
