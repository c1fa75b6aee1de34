"""`tables`: the paper's tables, what was measured here beside what is published."""

from typing import Annotated

import typer

from nha_eval import completing

EXAMPLE = (
    "Example: [bold]python run_eval.py tables nha-main --run results/runs/mine --column 'NHA=my-nha:64'[/bold]\n\n"
    "Measured now: [bold]tables mom-recall-1.3b --model path/to/gsa --column 'GSA=path/to/gsa'[/bold]; all that is published: "
    "[bold]tables[/bold]"
)


def command(
    table: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE", help="`list` shows them. Default: all.", autocompletion=completing.tables),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER", help="A run with what was measured. Repeatable: of figures that several have, the first's counts."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Evaluate this preset, checkpoint folder or hub id on all that the table needs.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PUBLISHED=MODEL",
            help="A model of the run (MODEL or MODEL:WINDOW), or that of --model, is the published one: its size, training and "
            "data are the same. Repeatable. Any other gets no verdict.",
        ),
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="markdown, latex, csv or html. Default: as --out ends, or for the terminal.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="File of the tables. Default: stdout.")] = None,
    into: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="With --model: the run folder. Default: results/runs/tables-TABLE.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="With --model: examples a task, as of `eval`.")] = None,
    batch: Annotated[str | None, typer.Option(help="With --model: sequences scored together, or auto.")] = None,
    device: Annotated[str | None, typer.Option(help="With --model: auto, cpu, cuda, cuda:N or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="With --model: auto, float32, bfloat16 or float16.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="With --model: data in the hub's place, as of `eval`. Repeatable."),
    ] = None,
) -> int:
    """The paper's tables: published, measured here, difference, 95% interval, verdict; or the command that would measure it.

    A verdict needs --column; a model of another size stands beside the table, not in it. docs/TABLES.md says how it is judged.
    Exit codes: 0 done, 1 stopped by the machine, 2 wrong input, 3 some data could not be had, 130 interrupted.
    """
    from nha_eval.tables.show import tables

    options = {"limit": limit, "batch": batch, "device": device, "dtype": dtype, "data": data or None, "out": into}
    return tables(table or [], runs=run or [], model=model, columns=column or [], kind=format, out=out, options=options)
