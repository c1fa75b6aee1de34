"""The answers of recall documents with how far back in the prompt they stood, read from a run's cells and samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nha_eval.comparison.folders import RunScores, ScoredTask, Setting, read_run
from nha_eval.errors import UserError
from nha_eval.window_settings import widest

from ._frames import clean_text, make_frames


@dataclass(frozen=True)
class Answer:
    """One document of one setting. `correct` is its score; `distance` the tokens after the answer's first one in the prompt
    and `depth` in [0, 1] the share of the text before it, None where not known; `cluster` tells documents on one text.
    """

    model: str
    window: str
    suite: str
    cluster: tuple[Any, ...]
    correct: float
    distance: int | None
    depth: float | None
    # Where inside ends, in tokens: the window; of a setting by name its layers' widest short of full. None: it has no width.
    reach: int | None = None
    mixed: bool = False  # whether its layers have unlike windows


def read_answers(source: Path | RunScores) -> list[Answer]:
    """All of the run; those whose samples cannot be read are left out, as are documents that tell no place."""
    try:
        tasks = (source if isinstance(source, RunScores) else read_run(source)).tasks
    except UserError:
        return []
    return [answer for setting, own in tasks.items() for task in own.values() for answer in _of_task(setting, task)]


def answer_frame(answers: list[Answer]) -> pd.DataFrame:
    """A row an answer, as `Frames.answers`; `cluster` as text."""
    rows = pd.DataFrame([{**vars(answer), "cluster": repr(answer.cluster)} for answer in answers])
    return make_frames(answers=rows).answers


def _of_task(setting: Setting, task: ScoredTask) -> Iterable[Answer]:
    if task.record.get("status") != "ok":
        return
    try:
        documents = task.documents()
    except UserError:
        return
    model, window, suite = (clean_text(text) for text in (setting.model, setting.window, task.cell.get("suite")))
    layers = task.cell.get("windows")
    reach = int(window) if window.isdecimal() else widest(layers or ())
    for number, record in documents.items():
        correct, distance, depth = (_number(record.get(key)) for key in ("correct", "distance", "depth"))
        depth = depth if depth is not None and 0 <= depth <= 1 else None
        if correct is None or (distance is None and depth is None):
            continue
        context = record.get("context_id")
        text = ("document", number) if context is None else ("context", str(context))
        cluster = (task.cell.get("task"), task.cell.get("length"), *text)
        place = None if distance is None else int(distance)
        yield Answer(model, window, suite, cluster, correct, place, depth, reach, layers is not None)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
