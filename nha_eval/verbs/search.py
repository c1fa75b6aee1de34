"""`search`: which layers need which window, under a budget, from one load of the weights and without training."""

from typing import Annotated, Any

import typer

from nha_eval import completing

EXAMPLE = (
    "Example: [bold]python run_eval.py search nha:smollm2-135m --text debian --budget 0.25,0.5 --time 50[/bold]\n\n"
    "What it finds is evaluated by its name: [bold]eval --model nha:smollm2-135m --suite recall-local --settings "
    "results/runs/search-NAME/settings.yaml --window searched-25pct[/bold]"
)


def command(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Preset, checkpoint folder or hub id.", autocompletion=completing.presets),
    ] = None,
    spec: Annotated[str | None, typer.Option(metavar="FILE", help="A YAML file of the options below; flags win.")] = None,
    windows: Annotated[
        list[str] | None,
        typer.Option(
            "--windows", "--window", help="Candidates, tokens or full. Default: 0,16,64,256,1024,full below --length."
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="State: bytes as in 22MB, or shares of full attention's as in 0.25. Default: 0.25."),
    ] = None,
    budget_latency: Annotated[
        list[str] | None, typer.Option(help="In the place of --budget: shares of full attention's latency, as in 0.9.")
    ] = None,
    phase: Annotated[str | None, typer.Option(help="Whose latency: prefill or decode. Default: decode.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens at which budgets are meant. Default: --length.")] = None,
    method: Annotated[str | None, typer.Option(help="greedy, or evolution after it. Default: greedy.")] = None,
    generations: Annotated[int | None, typer.Option(help="Of the evolution, a budget. Default: 8.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Source of text: debian, a folder or file, a hub id. Repeatable. Default: debian.")
    ] = None,
    sequences: Annotated[int | None, typer.Option(help="Sequences of text to search on. Default: 4.")] = None,
    unseen: Annotated[int | None, typer.Option(help="Others, to confirm on. Default: 12.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens a sequence. Default: 1024.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences run together. Default: 1.")] = None,
    probe: Annotated[str | None, typer.Option(help="Contexts of the recall probe, or off. Default: 4.")] = None,
    probe_length: Annotated[int | None, typer.Option(help="Tokens of a probe's context. Default: --length.")] = None,
    probe_weight: Annotated[
        float | None, typer.Option(help="Of the probe's loss beside KL in what is lowered. Default: 0, KL alone.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the probe and the evolution. Default: 0.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: the physical cores.")] = None,
    time: Annotated[float | None, typer.Option(help="Minutes that the whole may take. Default: no limit.")] = None,
    out: Annotated[str | None, typer.Option(metavar="PATH", help="Run folder. Default: results/runs/search-NAME.")] = None,
) -> int:
    """Find each layer's window under a budget of state or latency, beside the usual choices, confirmed on unseen text.

    The same command again goes on where it stopped. It leaves search.csv, sensitivity.csv, front.csv, comparison.csv,
    settings.yaml, plots and report.md. Exit codes: 0 done, 1 stopped by the machine, 2 wrong input, 130 interrupted.
    """
    from nha_eval.errors import UserError
    from nha_eval.search.spec import make_search_spec
    from nha_eval.spec import find_spec, read_spec

    flags: dict[str, Any] = {
        "model": model,
        "windows": windows,
        "budgets": budget,
        "budgets_latency": budget_latency,
        "phase": phase,
        "context": context,
        "method": method,
        "generations": generations,
        "text": text,
        "sequences": sequences,
        "unseen": unseen,
        "length": length,
        "batch": batch,
        "probe": probe,
        "probe_length": probe_length,
        "probe_weight": probe_weight,
        "device": device,
        "dtype": dtype,
        "seed": seed,
        "threads": threads,
        "time": time,
        "out": out,
    }
    if spec is None and model is None:
        raise UserError("nothing to search: give MODEL or --spec; `search --help` shows an example")
    path = None if spec is None else find_spec(spec)
    content = {} if path is None else read_spec(path, "search")
    overrides = {key: value for key, value in flags.items() if value is not None}
    checked = make_search_spec(content, overrides, where="the command line" if path is None else str(path))
    from nha_eval.search.run import search

    return search(checked)
