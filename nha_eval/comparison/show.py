"""The table of comparisons, on the screen and as comparisons.csv."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from nha_eval.comparison.folders import RunScores
from nha_eval.comparison.table import LEVEL, OK, REFUSED
from nha_eval.errors import UserError, is_disk_trouble
from nha_eval.journal import write_atomic
from nha_eval.paired import RESAMPLES

COLUMNS = [
    *("run_a", "model_a", "window_a", "run_b", "model_b", "window_b"),
    *("suite", "task", "task_version", "protocol", "metric", "length"),
    *("value_a", "value_b", "difference", "ci_low", "ci_high", "n", "clusters", "right_a_alone", "right_b_alone"),
    *("left_out_a", "left_out_b", "test", "p", "p_holm", "verdict", "status", "reason"),
]
NAME = "comparisons.csv"
WIDTH = 160  # columns, on a narrower terminal too: a wrapped line can be read, a cut-off figure cannot


def name_runs(first: RunScores, second: RunScores) -> None:
    """Give both runs names that tell them apart, without the place where they lie on this machine."""
    paths = [run.path.resolve() for run in (first, second)]
    first.name, second.name = (path.name for path in paths)
    if paths[0] != paths[1] and first.name == second.name:
        first.name, second.name = ("/".join(path.parts[-2:]) for path in paths)
    if paths[0] != paths[1] and first.name == second.name:
        first.name, second.name = f"{first.name} (A)", f"{second.name} (B)"


def table_path(out: Path) -> Path:
    """The file to write: `out` itself where it is a .csv, else comparisons.csv in that folder. UserError for others."""
    out = out.expanduser()
    if out.suffix.lower() == ".csv":
        return out
    if out.is_file() or (out.suffix and not out.is_dir()):
        raise UserError(f"--out {out}: wanted is a folder, or a name that ends in .csv")
    return out / NAME


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the table. Raises UserError where that place cannot be written, MachineError for a full disk."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    try:
        write_atomic(path, text.getvalue())
    except OSError as problem:
        if is_disk_trouble(problem):
            raise
        raise UserError(f"cannot write {path}: {problem.strerror or problem}; give another place with --out") from problem


def print_rows(rows: list[dict[str, Any]], console: Any = None) -> None:
    """Print what was compared as a table, and what was not as a line each, to stdout."""
    from rich.console import Console

    console = console or Console(highlight=False)
    console.width = max(console.width, WIDTH)
    compared = [row for row in rows if row["status"] == OK]
    for sides in dict.fromkeys(_sides(row) for row in compared):
        console.print(_table([row for row in compared if _sides(row) == sides]))
    few = f"{len(compared)} comparison{'' if len(compared) == 1 else 's'}"
    console.print(
        f"Better: p < {LEVEL} after Holm's correction over {few}. Interval: 95%, of each difference by itself. Bootstrap: "
        f"{RESAMPLES:,} resamples, or all there are.",
        soft_wrap=True,
    )
    for line in notes(rows):
        console.print(line, markup=False, soft_wrap=True)


def _sides(row: dict[str, Any]) -> tuple[str, str]:
    return side(row, "a"), side(row, "b")


def _table(rows: list[dict[str, Any]]):
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    a, b = _sides(rows[0])
    title = escape(f"A: {a}\nB: {b}")
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    for column in ("length", "A", "B", "A - B, 95% interval", "n"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("test", no_wrap=True)
    for column in ("p", "p, Holm"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        length = f"{row['length']:,}" if row["length"] else ""
        texts = (task(row), length, *figures(row), row["test"], chance(row["p"]), chance(row["p_holm"]), row["verdict"])
        table.add_row(*map(escape, texts))
    return table


def side(row: dict[str, Any], letter: str) -> str:
    """`MODEL:WINDOW`, with its run's name where the two sides are of two runs."""
    setting = f"{row[f'model_{letter}']}:{row[f'window_{letter}']}"
    return setting if row["run_a"] == row["run_b"] else f"{setting} in {row[f'run_{letter}']}"


def task(row: dict[str, Any]) -> str:
    """`recall_needle (contains)`, or `recall-local, mean of 4 tasks (contains)`."""
    if row["task"].startswith("mean of "):
        return f"{row['suite']}, {row['task']}"
    return row["task"] + (f" ({row['metric']})" if row.get("metric") else "")


def figures(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """Score A, score B, the difference with its interval, documents (and contexts, where they share any)."""
    low, high = (None if row[bound] is None else f"{row[bound]:+.3f}" for bound in ("ci_low", "ci_high"))
    interval = "no interval" if low is None and high is None else f"{low or 'no bound'} to {high or 'no bound'}"
    return f"{row['value_a']:.3f}", f"{row['value_b']:.3f}", f"{row['difference']:+.3f}  ({interval})", documents(row)


def documents(row: dict[str, Any]) -> str:
    """`96 in 16`: documents, and the contexts that they share where they share any."""
    return f"{row['n']:,}" + (f" in {row['clusters']:,}" if row["clusters"] < row["n"] else "")


def chance(p: float) -> str:
    """A p value with two digits that tell something."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.01 else f"{p:.3f}"


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What was left out and why, rows of the same reason joined."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] == OK:
            counts = [
                f"{row[f'left_out_{letter}']} that only {letter.upper()} has" for letter in "ab" if row[f"left_out_{letter}"]
            ]
            what = f"documents left out: {' and '.join(counts)}" if counts else None
        else:
            what = f"{'refused' if row['status'] == REFUSED else 'not compared'}: {row['reason']}"
        if what is not None:
            at = f" at {row['length']:,} tokens" if row["length"] else ""
            lines.setdefault(what, []).append(f"{side(row, 'a')} and {side(row, 'b')} on {task(row)}{at}")
    return [f"{what} ({where[0]}{f', and {len(where) - 1} more' if len(where) > 1 else ''})" for what, where in lines.items()]
