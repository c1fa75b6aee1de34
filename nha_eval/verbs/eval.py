"""`eval`: models x windows x suites -> accuracy, latency, memory -> a run folder with its report."""

import re
from pathlib import Path
from typing import Annotated

import typer

from nha_eval import completing

EXAMPLE = (
    "Example: [bold]python run_eval.py eval --model nha-smollm2-135m --suite recall-local --window 16,64,full "
    "--length 512 --limit 50[/bold]\n\n"
    "The recall suite on files of your own: [bold]python run_eval.py eval --model path/to/llama --suite recall --length 1024 "
    "--data fda=fda.jsonl --data swde=swde.jsonl[/bold]\n\n"
    "Windows a layer, by name: [bold]python run_eval.py eval --model nha-tiny --task recall_needle --settings settings.yaml "
    "--window 64,searched,full[/bold]\n\n"
    "A spec with one change: [bold]python run_eval.py eval quickstart --seed 1 --out results/runs/seed1[/bold]"
)


def command(
    spec: Annotated[
        str | None,
        typer.Argument(
            metavar="SPEC.yaml",
            help="A spec file, or the name of a shipped one (`list` shows them).",
            autocompletion=completing.evaluations,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Preset, checkpoint folder or hub id. Repeatable.", autocompletion=completing.presets),
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option(help="Suite of tasks. Repeatable.", autocompletion=completing.suites)
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Only these tasks. Repeatable.", autocompletion=completing.tasks)
    ] = None,
    window: Annotated[
        list[str] | None,
        typer.Option(help="Windows in tokens, full, or a setting's name: 16,64,full. Default: as the model comes."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE", help="YAML of windows a layer, by name: searched: [64, full, 16]. Repeatable. --window names them."
        ),
    ] = None,
    length: Annotated[
        list[str] | None, typer.Option(help="Context lengths in tokens, for tasks made at a length: 512,1024.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Examples a task. Default: all.")] = None,
    contexts: Annotated[int | None, typer.Option(help="Contexts generated a task and length.")] = None,
    batch: Annotated[
        str | None, typer.Option(help="Sequences scored together, or auto: by their lengths and what memory holds. Default: 8.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn. Default: 0.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: the physical cores.")] = None,
    costs: Annotated[bool | None, typer.Option("--costs/--no-costs", help="Measure latency and memory. Default: yes.")] = None,
    cost_length: Annotated[list[str] | None, typer.Option(help="Lengths to measure costs at: 512,2048.")] = None,
    cost_batch: Annotated[int | None, typer.Option(help="Batch to measure costs at. Default: 1.")] = None,
    telemetry: Annotated[
        bool | None,
        typer.Option("--telemetry/--no-telemetry", help="Measure how much of attention goes to the slots. Default: no."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="PATH", help="Run folder. Default: results/runs/NAME.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="A folder or JSONL file in the place of a data set of the hub: fda=fda.jsonl. Repeatable. Without NAME=: the "
            "folder of fetched data and weights. Default: the user's cache.",
        ),
    ] = None,
    truncation: Annotated[
        str | None,
        typer.Option(help="How recall contexts are cut: around-answer, left, head, skip, error. Default: the protocol's."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id: cut recall contexts in its tokens. Default: in the model's own.")
    ] = None,
    executor: Annotated[str | None, typer.Option(help="Where workers run: local, or ray. Default: local.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster. Default: one is started here.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Workers at a time. Default: one here, as many as fit on a Ray cluster.")
    ] = None,
    share: Annotated[
        str | None, typer.Option(help="2/8: the second of eight shares alone; without it all are gathered.")
    ] = None,
) -> int:
    """Evaluate models over windows and suites: accuracy, latency and memory, with a report.

    The same command again goes on where it stopped. Flags override the spec.
    Exit codes: 0 done, 1 stopped by the machine, 2 wrong input, 3 some data could not be had, 130 interrupted.
    """
    from nha_eval.errors import UserError
    from nha_eval.evaluate import prepare
    from nha_eval.launched import run_share
    from nha_eval.ranks import launched
    from nha_eval.spec import find_spec, make_spec, read_spec

    flags = {
        "models": model,
        "suites": suite,
        "tasks": task,
        "windows": _split("window", window),
        "settings": settings or None,
        "lengths": _split("length", length),
        "limit": limit,
        "contexts": contexts,
        "batch": batch,
        "device": device,
        "dtype": dtype,
        "seed": seed,
        "threads": threads,
        "telemetry": telemetry,
        "out": out,
        "data": data or None,
        "executor": executor,
        "address": address,
        "workers": workers,
        "share": share,
        "truncation": truncation,
        "tokenizer": tokenizer,
    }
    cost_flags = {"lengths": _split("cost-length", cost_length), "batch": cost_batch}
    cost_flags = {key: value for key, value in cost_flags.items() if value is not None}
    if cost_flags and costs is False:
        raise UserError("--no-costs does not go with --cost-length and --cost-batch: leave one out")
    overrides = {**{key: value for key, value in flags.items() if value is not None}, "costs": cost_flags or costs}
    if spec is None and not model:
        raise UserError(
            "nothing to evaluate: give a spec (`eval quickstart`) or --model and --suite; `eval --help` shows an example"
        )
    if spec is not None and re.fullmatch(r"\d+|full", spec) and not Path(spec).exists():
        raise UserError(f"{spec!r} stands where a spec does: give several windows or lengths with commas, as in 16,{spec}")
    path = None if spec is None else find_spec(spec)
    content = {} if path is None else read_spec(path)
    # Where and by how many the work is done changes nothing of the run, nor does what is measured besides: it keeps its
    # spec's name.
    beside = {"out", "executor", "address", "workers", "share", "telemetry"}
    changed = {key for key, value in overrides.items() if value is not None} - beside
    if not any("=" in item for item in data or ()):
        changed.discard("data")
    checked = make_spec(content, overrides, where="the command line" if path is None else str(path))
    name = path.stem if path is not None and not changed else None
    by = launched()
    return prepare(checked, name).go() if by is None or checked.share else run_share(checked, name, by)


def _split(name: str, values: list[str] | None) -> list[str] | None:
    from nha_eval.errors import UserError
    from nha_eval.spec import split_commas

    try:
        return None if not values else [part for value in values for part in split_commas(value)]
    except ValueError as problem:
        raise UserError(f"--{name} {problem}") from problem
