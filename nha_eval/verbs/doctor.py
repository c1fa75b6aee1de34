"""`doctor`: what this machine can run, and whether every mixer is right on it."""

from typing import Annotated

import typer

EXAMPLE = "Example: [bold]python run_eval.py doctor[/bold], or [bold]doctor --mixer nha --mixer gla --device cuda[/bold]"


def command(
    mixer: Annotated[list[str] | None, typer.Option(help="Only this mixer, and nothing of the machine. Repeatable.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N. auto: the GPU where there is one.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines and a table.")] = False,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="Folder of fetched data and weights, as in `eval`.")] = None,
) -> int:
    """Check the machine, and each mixer against its definition, split, token by token and in padded batches.

    Reports of later runs are stamped with what is found. Exit codes: 0 when all is well, 1 when something needs mending, 2 for
    wrong input, a --data that cannot be written among it.
    """
    from nha_eval.doctor import examine

    return examine(mixer, device=device, as_json=json, data=data)
