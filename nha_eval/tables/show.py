"""What the verb `tables` does: reads, measures where that is asked for, fills, and prints or writes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nha_eval.errors import DONE, UserError, is_disk_trouble, nearest
from nha_eval.journal import write_atomic
from nha_eval.paths import user_path
from nha_eval.tables.cells import Filled, fill, parse_columns
from nha_eval.tables.formats import FORMATS, print_shown, render_as
from nha_eval.tables.measured import read_measured
from nha_eval.tables.shown import lay_out
from nha_eval.tables.spec import read_table, table_names


def tables(
    names: list[str],
    *,
    runs: list[str],
    model: str | None = None,
    columns: Iterable[str] = (),
    kind: str | None = None,
    out: str | None = None,
    options: dict[str, Any] | None = None,
) -> int:
    """Print tables (all, where none is named) as one of FORMATS or for the terminal, or write them, and return the exit code.

    `columns` say which model of the `runs` is a published one (PUBLISHED=MODEL). With `model` it is evaluated first, with the
    `options` of `eval`. Raises UserError.
    """
    chosen = [read_table(name) for name in dict.fromkeys(names or table_names())]
    path = None if out is None else _place(out)
    kind = _kind(kind, path)
    said = parse_columns(columns, chosen)
    if model is None:
        given = next((name for name, value in (options or {}).items() if value is not None), None)
        if given:
            raise UserError(f"--{'into' if given == 'out' else given} is for --model: give one, or leave it out")
    if said and not (runs or model):
        raise UserError(f"{said[0].where}: there is no model here: add --run with the run that has it, or --model")
    if model is not None and len(names) != 1:
        raise UserError(f"--model {model}: name one table to measure; {nearest('', table_names(), what='tables')}")
    measured = [read_measured(run) for run in runs]
    code, sizes = DONE, {}
    if model is not None:
        from nha_eval.tables.running import evaluate_table

        ran = evaluate_table(chosen[0], model, options or {})
        measured.append(read_measured(str(ran.folder)))
        code, sizes = ran.code, {ran.label: float(ran.parameters)} if ran.parameters else {}
        # The run calls it by its label, the user by what was given.
        said = [replace(one, measured=ran.label) if one.measured == model else one for one in said]
    filled = fill(chosen, measured, said, sizes)
    _say_unused(filled, runs)
    if kind is None:
        print_shown(map(lay_out, filled))
    else:
        _write(render_as(kind, filled), path)
    return code


def _say_unused(filled: list[Filled], runs: list[str]) -> None:
    if runs and not any(table.columns or table.own for table in filled):
        print("note: nothing that these tables are of was measured in the run", file=sys.stderr)


def _place(out: str) -> Path:
    path = user_path(out, "--out")
    if path.is_dir():
        raise UserError(f"--out {out}: this is a folder; wanted is a file, such as tables.md")
    return path


def _kind(given: str | None, path: Path | None) -> str | None:
    """The format: as given, or by the file's ending; None for the terminal."""
    if given is not None:
        if given not in FORMATS:
            raise UserError(f"--format {given!r}: {nearest(given, FORMATS, what='wanted')}")
        return given
    if path is None:
        return None
    found = next((kind for kind, suffix in FORMATS.items() if path.suffix.lower() == suffix), None)
    if found is None:
        raise UserError(f"--out {path}: wanted is a name that ends in {', '.join(FORMATS.values())}, or --format beside it")
    return found


def _write(text: str, path: Path | None) -> None:
    if path is None:
        sys.stdout.write(text)
        return
    try:
        write_atomic(path, text)
    except OSError as problem:
        if is_disk_trouble(problem):
            raise
        raise UserError(f"cannot write {path}: {problem.strerror or problem}; give another place with --out") from problem
    print(path)
