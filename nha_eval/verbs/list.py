"""`list`: what there is to evaluate, with what, and what can be drawn."""

import json as jsons
from typing import Annotated

import typer

EXAMPLE = "Example: [bold]python run_eval.py list[/bold], or [bold]list --json[/bold] for programs"


def command(json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False) -> int:
    """Show presets, suites with their tasks, specs, plots and the paper's tables."""
    from nha_eval.listing import collect, show

    found = collect()
    if json:
        print(jsons.dumps(found, indent=1))
    else:
        show(found)
    return 0
