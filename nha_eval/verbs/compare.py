"""`compare`: which differences between settings are real, tested on the documents that they share."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = (
    "Example: [bold]python run_eval.py compare results/runs/quickstart --a nha-smollm2-135m:64 --b swa-smollm2-135m:64[/bold]"
    "\n\nTwo runs: [bold]compare RUN_A RUN_B[/bold] pairs equal settings; all against one: "
    "[bold]compare RUN --baseline smollm2-135m:full[/bold]"
)


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the name of one under results/runs.")],
    other: Annotated[str | None, typer.Argument(metavar="RUN_B", help="Another, whose settings are B.")] = None,
    a: Annotated[str | None, typer.Option("--a", help="Setting A as MODEL:WINDOW, or a model with all its windows.")] = None,
    b: Annotated[str | None, typer.Option("--b", help="Setting B, likewise; of RUN_B where there is one.")] = None,
    baseline: Annotated[str | None, typer.Option(help="Compare every setting with this one, MODEL:WINDOW.")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="Only this suite. Repeatable.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task. Repeatable.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Only this length in tokens. Repeatable.")] = None,
    metric: Annotated[str | None, typer.Option(help="Metric to compare. Default: each task's main one.")] = None,
    by: Annotated[str, typer.Option(help="A row a task, or a suite: the mean over its tasks. task or suite.")] = "task",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder or .csv to write. Default: comparisons.csv in the run.")] = None,
) -> int:
    """Paired tests between settings of one run or two, document by document, with 95% intervals and Holm's correction.

    Without options: every setting against full attention, or the equal settings of two runs. Scores of unlike protocols,
    task versions or prompts are refused (exit code 2). docs/COMPARE.md says how all of it is computed.
    """
    from nha_eval.comparison import Only, compare
    from nha_eval.comparison.table import BY
    from nha_eval.errors import UserError, nearest

    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: wanted is an integer from 0 to {2**32 - 1}")
    if by not in BY:
        raise UserError(f"--by {by!r}: {nearest(by, BY, what='wanted')}")
    only = Only(*(tuple(wanted) if wanted else None for wanted in (suite, task, length)), metric, by)
    return compare(run, other, a=a, b=b, baseline=baseline, only=only, seed=seed, out=out)
