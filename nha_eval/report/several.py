"""What a report of several runs says of them: a row a run, and what is kept apart."""

from __future__ import annotations

from nha_eval.plots._frames import clean_text, model_order

from .joining import Joined
from .runs import Run
from .tables import MISSING, Table, count


def runs_table(runs: list[Run]) -> Table:
    """A row a run: when, from which sources, on what, and how far it has come."""
    rows = []
    for run in runs:
        about = run.environment
        date = str(about.get("date") or "").replace("T", " ")[:16]
        told = [date, str(about.get("commit") or "")[:8], about.get("gpu") or about.get("cpu"), about.get("dtype")]
        models = ", ".join(model_order(run.frames.scores, run.frames.costs))
        done = count(run.status.done) + (" so far" if run.status.finished is False else "")
        told = [*(clean_text(text or MISSING, 60) for text in told), clean_text(about.get("seed", MISSING), 20)]
        rows.append([run.name, *told, clean_text(models, 200) or MISSING, done])
    columns = ["run", "date", "commit", "machine", "dtype", "seed", "models", "cells"]
    return Table("The runs", columns, rows, labels=7)


def runs_text(whole: Joined) -> list[str]:
    """How they were joined, and what of them is not compared."""
    how = (
        "The runs are joined: models and windows of all of them stand in one table and plot where protocol, task version, "
        "device and dtype are the same. Differences between runs are tested only on documents asked in the same words."
    )
    return [how, *(whole.apart or ["Nothing in these runs had to be kept apart."])]
