"""`bench op`: the operator's time and memory beside its peers; `bench show`: the same of figures that are there already."""

import os
from pathlib import Path
from typing import Annotated

import typer

HELP = "Time and memory of the operator beside its peers, measured in one run."
EXAMPLES = {
    "op": (
        "Example: [bold]python run_eval.py bench op --shape A --length 2048,32768 --only nha,flex[/bold]\n\n"
        "The same command goes on where it stopped; figures of another machine or of changed kernels need "
        "[bold]--fresh[/bold] or another [bold]--out[/bold]."
    ),
    "show": "Example: [bold]python run_eval.py bench show results/runs/bench-op[/bold]",
}
OUT = Path("results/runs/bench-op")


def op(
    shape: Annotated[list[str] | None, typer.Option(help="A (Llama-3-8B), B (340M), tiny. Default: A,B.")] = None,
    length: Annotated[
        list[str] | None,
        typer.Option(help="Tokens: 2048,32768. Default: 2048 to 131072 on a GPU (32768 with the backward), 256,512 on a CPU."),
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(help="Windows of those that have one. Default: 64, and 1024 at 32768 tokens (256 at 512 on a CPU)."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Implementations: nha,flex. Default: all.")] = None,
    phase: Annotated[
        list[str] | None,
        typer.Option(help="forward, forward+backward, forward packed, forward+backward packed, decode. Default: all."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Shape A at three lengths.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32. auto: bfloat16 on a GPU.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    warmup: Annotated[float, typer.Option(help="Milliseconds of warm-up for a row.")] = 10.0,
    repeat: Annotated[float, typer.Option(help="Milliseconds of repeats for a row; at least five are made.")] = 50.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure anew what the folder holds.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the table, environment.json and picture.")] = OUT,
) -> int:
    """Time and memory of the operator beside its peers: forward, with backward, packed, decode.

    Nothing is timed before it is right. What cannot be had here is a row with its reason.
    """
    from nha_eval.errors import UserError

    lengths, windows = _integers("length", length, least=16), _integers("window", window, least=0)
    if warmup < 0 or repeat < 0:
        raise UserError(f"--warmup {warmup:g} --repeat {repeat:g}: wanted are milliseconds, 0 or more")
    # Read when torch is imported. GNU OpenMP's threads wait for each other in a busy loop, which beside any other busy
    # process makes small operators a hundred times slower; this many turns cost nothing on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    from nha_eval.bench.machine import resolve_device
    from nha_eval.bench.op import OpRun, run

    chosen, kind = resolve_device(device, dtype)
    from nha_eval.bench.grid import plan
    from nha_eval.bench.timing import Budget

    cases = plan(
        device_type=chosen.type,
        shapes=_split(shape),
        lengths=lengths,
        windows=windows,
        phases=_split(phase),
        only=_split(only),
        quick=quick,
    )
    return run(OpRun(cases, chosen, kind, out, seed, Budget(warmup, repeat), fresh))


def show(folder: Annotated[Path, typer.Argument(help="The folder that `bench op` wrote.")] = OUT) -> int:
    """Print a folder's table and draw its picture, as of figures brought from another machine."""
    from nha_eval.bench.op import show as show_folder

    show_folder(folder)
    return 0


COMMANDS = {"op": op, "show": show}


def _split(values: list[str] | None) -> list[str] | None:
    return None if not values else [part.strip() for value in values for part in value.split(",") if part.strip()]


def _integers(name: str, values: list[str] | None, least: int) -> list[int] | None:
    from nha_eval.errors import UserError

    texts = _split(values)
    for text in texts or ():
        if not (text.isdecimal() and int(text) >= least):
            raise UserError(f"--{name} {text!r}: wanted are integers from {least}, as in --{name} 2048,32768")
    return None if texts is None else sorted({int(text) for text in texts})
