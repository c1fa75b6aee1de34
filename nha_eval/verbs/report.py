"""`report`: a run's page and plots, drawn again from its tables."""

import sys
from typing import Annotated

import typer

EXAMPLE = "Example: [bold]python run_eval.py report results/runs/quickstart[/bold]"


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the name of one under results/runs.")],
) -> int:
    """Write a run's report.md, report.html and plots again, finished or not."""
    from nha_eval.errors import UserError, is_disk_trouble, printable
    from nha_eval.report import write_report
    from nha_eval.store import find_run, lost_tables

    folder = find_run(run)
    try:
        written = write_report(folder)
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    except OSError as problem:
        if is_disk_trouble(problem):
            raise
        raise UserError(f"cannot write the report into {folder}: {problem.strerror or problem}") from problem
    lost = lost_tables(folder)
    if lost:
        told = f"cells/ holds more than {' and '.join(lost)}, and so than the report: give the run's `eval` command again"
        print(f"note: {printable(told)}", file=sys.stderr)
    for path in written:
        print(path)
    return 0
