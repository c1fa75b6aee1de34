"""What a run of `bench op` and one of `bench model` share: what it is, what became of a case, and what is said of a row."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval.errors import is_out_of_memory, one_line


@dataclass(frozen=True)
class Run:
    """What a run is: its cases in order, where they run, how long a row may take, and where the figures go."""

    cases: list[Any]
    device: torch.device
    dtype: torch.dtype
    out: Path
    seed: int = 0
    budget: Any = None
    fresh: bool = False


@dataclass
class Progress:
    """Tells of `total` rows as they come."""

    console: Console
    total: int
    _told: set[Any] = field(default_factory=set)

    def tell(self, place: int, row: dict[str, Any], what: tuple[str, ...], headline: str) -> None:
        """Row number `place`. What cannot be had here is said once for the same values in the columns `what`, whatever the
        length."""
        why = (*(row[column] for column in what), row.get("reason")) if row["status"] == "unavailable" else None
        if why is None or why not in self._told:
            self.console.print(f"[{place}/{self.total}] {headline}", markup=False)
        self._told.add(why)


def explain(owner: Any, problem: Exception) -> tuple[str, str]:
    """(status, reason) of the row whose measuring raised `problem`; owner: an implementation's or family's module."""
    if is_out_of_memory(problem):
        return "oom", one_line(problem)
    missing = isinstance(problem, ImportError) or any(sign in str(problem) for sign in getattr(owner, "UNAVAILABLE", ()))
    return ("unavailable" if missing else "error"), one_line(problem)


def tidy(device: torch.device) -> None:
    """Hands back what nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
