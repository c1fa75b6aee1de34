"""The tables that a search leaves, as rows of plain data, and which settings nothing beats.

- search.csv: a row an evaluated setting, in the order in which they were found.
- sensitivity.csv: a row a layer and window, all other layers full.
- front.csv: of search.csv, the settings that no other equals or beats in cost, KL and the answers' loss at once.
- comparison.csv: under each budget the searched setting beside the families', on held-out and on unseen text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nha_eval.journal import write_atomic

FIGURES = ("kl", "kl_stderr", "answer_loss", "answer_loss_stderr", "recall")
SETTING = ("model", "dtype", "device", "seed")
COSTS = ("full_layers", "state_bytes", "state_share", "latency_ms", "latency_share")
DIFFERENCE = tuple(
    f"{measure}_{part}" for measure in ("kl", "answer_loss") for part in ("difference", "low", "high", "p", "p_holm")
)
COLUMNS = {
    "search": ("found_by", "windows", *COSTS, *FIGURES, *SETTING),
    "sensitivity": ("layer", "window", "mixer", "state_bytes_saved", "latency_ms_saved", *FIGURES, *SETTING),
    "front": ("found_by", "windows", *COSTS, *FIGURES, *SETTING),
    "comparison": (
        *("budget", "limit", "unit", "family", "name", "rest_window", *COSTS, "latency_ms_measured"),
        *(*FIGURES, *(f"unseen_{name}" for name in FIGURES), *DIFFERENCE, "reason", "windows", *SETTING),
    ),
}


def write_table(folder: Path, name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write `name`.csv whole; what a row lacks is empty. Raises MachineError when the disk is full or gone."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS[name], lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    write_atomic(folder / f"{name}.csv", text.getvalue())


def front(rows: Sequence[dict[str, Any]], cost: str) -> list[dict[str, Any]]:
    """The rows that no other equals or beats in `cost`, `kl` and, where both know it, `answer_loss`, cheap to dear; of equal
    ones the first."""
    rows = [row for row in rows if row["kl"] is not None]
    kept = [
        row for place, row in enumerate(rows) if not any(_beats(other, row, cost, i < place) for i, other in enumerate(rows))
    ]
    return sorted(kept, key=lambda row: (row[cost], row["kl"]))


def _beats(other: dict[str, Any], row: dict[str, Any], cost: str, before: bool) -> bool:
    if other is row:
        return False
    names = [cost, "kl"]
    if other["answer_loss"] is not None and row["answer_loss"] is not None:
        names.append("answer_loss")
    a, b = ([each[name] for name in names] for each in (other, row))
    return all(x <= y for x, y in zip(a, b, strict=True)) and (a != b or before)
