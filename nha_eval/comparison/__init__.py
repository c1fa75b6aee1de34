"""Which difference between two settings is real: read from run folders, paired document by document, tested, corrected.

    from nha_eval.comparison import compare
    compare("results/runs/quickstart", baseline="smollm2-135m:full")

`folders` reads what was scored, `choose` says which settings are set against each other, `figures` and `pairing` match their
documents on one task, `table` makes the rows, `show` prints and writes them. `nha_eval.paired` and `nha_eval.stats` hold the
statistics.
"""

from __future__ import annotations

from pathlib import Path

from nha_eval.comparison.choose import choose_pairs, unlike_windows
from nha_eval.comparison.folders import RunScores, read_run
from nha_eval.comparison.show import name_runs, print_rows, table_path, write_rows
from nha_eval.comparison.table import OK, REFUSED, Only, compare_all
from nha_eval.errors import DONE, WRONG_INPUT, UserError
from nha_eval.store import find_run


def compare(
    run_a: str,
    run_b: str | None = None,
    *,
    a: str | None = None,
    b: str | None = None,
    baseline: str | None = None,
    only: Only | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> int:
    """Compare settings of one run folder or of two, print the table, write comparisons.csv, and return the exit code: 2 where
    something that was asked for must not be compared.

    `a`, `b` and `baseline` are settings as MODEL:WINDOW, or models with all their windows. Raises UserError where nothing can
    be compared.
    """
    first = read_run(find_run(run_a))
    second = first if run_b is None else read_run(find_run(run_b))
    name_runs(first, second)
    pairs = choose_pairs(first, second, a=a, b=b, baseline=baseline)
    rows = compare_all(pairs, only or Only(), seed=seed)
    if not any(row["status"] == OK for row in rows):
        raise UserError(_nothing(rows, first, second))
    path = table_path(first.path if out is None else out)
    write_rows(path, rows)
    print_rows(rows)
    for run in [first] if second is first else [first, second]:
        if run.broken:
            why = "broken or without their samples; its `eval` command does them again"
            print(f"left out: {run.broken} cells of {run.path} that are {why}")
    if second is not first and a is b is baseline is None:
        for setting in unlike_windows(first, second):
            print(
                f"left out: {setting}, which has other windows in {first.path} than in {second.path} (--a and --b compare them)"
            )
    print(path)
    return WRONG_INPUT if any(row["status"] == REFUSED for row in rows) else DONE


def _nothing(rows: list[dict], first: RunScores, second: RunScores) -> str:
    """Why nothing was compared: one reason stands for the others, a refusal before what is not there."""
    more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
    row = next((row for row in rows if row["status"] == REFUSED), rows[0])
    at = f" at {row['length']} tokens" if row["length"] else ""
    where = first.name if first is second else f"{first.name} and {second.name}"
    sides = f"{row['model_a']}:{row['window_a']} and {row['model_b']}:{row['window_b']}"
    return f"nothing to compare in {where}: {sides} on {row['task']}{at}: {row['reason']}{more}"
