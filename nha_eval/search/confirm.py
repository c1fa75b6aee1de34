"""Is the searched setting really better than the others under its budget? Paired tests on text that the search has not seen.

KL is paired by sequence, the probe's answers by question with the questions of a context together (`nha_eval.paired`); Holm's
correction is over all tests of a search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nha_eval.paired import RESAMPLES, Paired, compare_pairs
from nha_eval.search.evaluator import Evaluator
from nha_eval.search.windows import Windows
from nha_eval.stats import holm

SEARCHED = "searched"
ALPHA = 0.05


@dataclass(frozen=True)
class Entry:
    """A setting under a budget: its family, name and windows, or why there is none."""

    budget: str
    family: str
    name: str
    windows: Windows | None
    reason: str | None = None


def confirm(entries: list[Entry], unseen: Evaluator, seed: int) -> list[dict[str, Any]]:
    """A row an entry: figures on the unseen split, and for each family the difference to the searched setting of its budget,
    family less searched, with its 95% interval, p, and p after Holm. Raises OutOfTime.
    """
    for entry in entries:
        if entry.windows is not None:
            unseen.kl(entry.windows)
            if unseen.texts:
                unseen.answers(entry.windows)
    rows, tests = [], []
    best = {entry.budget: entry.windows for entry in entries if entry.family == SEARCHED}
    for entry in entries:
        row: dict[str, Any] = {"budget": entry.budget, "family": entry.family, "name": entry.name, "reason": entry.reason}
        rows.append(row)
        if entry.windows is None:
            continue
        row |= {f"unseen_{key}": value for key, value in unseen.row(entry.windows).items()}
        if entry.windows == best[entry.budget]:
            if entry.family != SEARCHED:
                row["reason"] = "the searched setting is this one"
            continue
        for measure, found in _differences(entry.windows, best[entry.budget], unseen, seed).items():
            row |= {f"{measure}_difference": found.difference, f"{measure}_low": found.low, f"{measure}_high": found.high}
            row |= {f"{measure}_p": found.p}
            tests.append((row, f"{measure}_p_holm", found.p))
    for (row, column, _), raised in zip(tests, holm([p for *_, p in tests]), strict=True):
        row[column] = float(raised)
    return rows


def too_few(rows: list[dict[str, Any]], n: int) -> bool:
    """Whether with n unseen sequences no outcome could have been significant: the least p of n signs, times the tests."""
    tests = sum(f"{measure}_p" in row for row in rows for measure in ("kl", "answer_loss"))
    return tests > 0 and max(2.0 ** (1 - n), 1 / RESAMPLES) * tests > ALPHA


def _differences(family: Windows, searched: Windows, unseen: Evaluator, seed: int) -> dict[str, Paired]:
    kl = unseen.kl(family), unseen.kl(searched)
    found = {"kl": compare_pairs(*kl, range(len(kl[0])), seed=seed)}
    if unseen.texts:
        loss = unseen.answers(family).loss, unseen.answers(searched).loss
        found["answer_loss"] = compare_pairs(*loss, unseen.contexts, seed=seed)
    return found
