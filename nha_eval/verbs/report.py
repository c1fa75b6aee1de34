"""`report`: a run's page, plots and tables, drawn again; or those of several runs joined."""

import sys
from typing import Annotated

import typer

EXAMPLE = (
    "Example: [bold]python run_eval.py report results/runs/quickstart[/bold]\n\n"
    "Several in one: [bold]report results/runs/a results/runs/b --out results/reports/a-and-b[/bold]"
)


def command(
    run: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run folders, or names of some under results/runs; several are joined."),
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Where to. Default: the run itself; of several results/reports/NAMES.")
    ] = None,
) -> int:
    """Write report.html, report.md, plots and tables of a run, finished or not; or of several runs in one.

    Runs are joined where protocol, task version, device and dtype are the same. What must not be compared stands apart, and the
    report says what and why.
    """
    from nha_eval.errors import UserError, is_disk_trouble, printable
    from nha_eval.paths import user_path
    from nha_eval.report import write_report
    from nha_eval.store import find_runs, joined_folder, lost_tables

    folders = find_runs(run)
    if out is not None:
        folder = user_path(out, "--out", "give a folder")
    else:
        folder = folders[0] if len(folders) == 1 else joined_folder(folders)
    try:
        written = write_report(*folders, out=folder)
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    except OSError as problem:
        if is_disk_trouble(problem):
            raise
        raise UserError(f"cannot write the report into {folder}: {problem.strerror or problem}") from problem
    for folder in folders:
        lost = lost_tables(folder)
        if not lost:
            continue
        told = f"cells/ holds more than {' and '.join(lost)}, and so than the report: give the run's `eval` command again"
        whose = "" if len(folders) == 1 else f"{folder}: "
        print(f"note: {printable(whose + told)}", file=sys.stderr)
    for path in written:
        print(path)
    return 0
