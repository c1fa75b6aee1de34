"""The evaluation that fills a table: what it needs of suites, tasks and lengths, run as `eval` runs it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nha_eval import catalog
from nha_eval.errors import UserError, printable
from nha_eval.evaluate import prepare
from nha_eval.plan import ModelInfo
from nha_eval.spec import make_spec
from nha_eval.tables.sizes import parameters
from nha_eval.tables.spec import PaperTable


@dataclass(frozen=True)
class Ran:
    """How the evaluation ended: its exit code, its folder, and what its tables call the model."""

    code: int
    folder: Path
    label: str
    parameters: int | None


def evaluate_table(table: PaperTable, model: str, options: dict[str, Any]) -> Ran:
    """Evaluate the model on all that the table needs, into results/runs/tables-TABLE or `options["out"]`.

    `options` are those of `eval` by their names in a spec; None is one that was not given. Lengths beyond the model are left
    out. Raises UserError, MachineError and Interrupted as `eval` does.
    """
    info = catalog.describe(model)
    content = {**needed(table, info), "models": [model], "costs": False}
    spec = make_spec(content, {key: value for key, value in options.items() if value is not None}, where="the command line")
    try:
        run = prepare(spec, f"tables-{table.name}", describe=lambda _: info)
        return Ran(run.go(), run.path, info.label, parameters(model))
    except UserError as problem:
        # Here `eval`'s --out is the file of the tables.
        raise UserError(str(problem).replace("--out", "--into")) from problem


def needed(table: PaperTable, info: ModelInfo) -> dict[str, Any]:
    """The suites and tasks of a spec that measures the table's columns. UserError where the model takes none of its lengths."""
    tasks: dict[str, list[int]] = {}
    suites: dict[str, None] = {}
    beyond: dict[int, None] = {}
    for column in table.columns:
        for _, how, tokens in table.measures(column):
            if tokens is not None and info.max_length is not None and tokens > info.max_length:
                beyond[tokens] = None
                continue
            suites[how.suite] = None
            lengths = tasks.setdefault(how.task, [])
            if tokens is not None and tokens not in lengths:
                lengths.append(tokens)
    lengths = ", ".join(f"{tokens:,}" for tokens in beyond)
    if not tasks:
        raise UserError(
            f"{table.name} is of {lengths} tokens, {info.label} takes up to {info.max_length:,}: give another model or table"
        )
    if beyond:
        note = f"note: {info.label} takes up to {info.max_length:,} tokens: {lengths} are left out"
        print(printable(note, 400), file=sys.stderr)
    return {"suites": list(suites), "tasks": [{"name": name, "lengths": sorted(asked)} for name, asked in tasks.items()]}
