"""`watch`: a run that goes on, in the terminal."""

from typing import Annotated

import typer

EXAMPLE = "Example: [bold]python run_eval.py watch results/runs/quickstart[/bold]"


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the name of one under results/runs.")],
    every: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and leave.")] = False,
) -> int:
    """Show how far a run has come while it goes: cells done, in hand and failed, scores so far, the time left.

    Leaves when the run is finished; Ctrl-C leaves the run alone.
    """
    from nha_eval.store import find_run
    from nha_eval.watching.show import watch

    return watch(find_run(run), every=every, once=once)
