"""A folder's table on the terminal, and its picture beside it: what `bench op`, `bench model` and `bench show` end with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from nha_eval.bench.rows import Table, read
from nha_eval.errors import UserError


def show_folder(folder: Path, table: Table, print_rows: Callable[[list[dict[str, str]]], None], picture: str) -> None:
    """Print `table` of the folder by `print_rows`, and draw it by the module `picture` where matplotlib is installed.
    UserError when there is no such table."""
    rows = read(folder, table)
    if not rows:
        raise UserError(
            f"no table of `{table.command}` in {folder}; give the folder that it wrote, such as results/runs/{table.name}"
        )
    print_rows(rows)
    print(folder / table.file)
    try:
        from nha_eval.plots._style import NothingToDraw

        drawing = importlib.import_module(picture)
    except ImportError as problem:
        print(f"no picture: {problem}; `bench show {folder}` draws it where matplotlib is installed")
        return
    try:
        for path in drawing.write(folder):
            print(path)
    except NothingToDraw as problem:
        print(problem)
