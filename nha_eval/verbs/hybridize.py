"""`hybridize`: a pretrained checkpoint turned into an NHA hybrid, in stages that resume."""

from pathlib import Path
from typing import Annotated

import typer

from nha_eval import completing

EXAMPLE = (
    "Example: [bold]python run_eval.py hybridize nha-smollm2-135m --out results/runs/my-hybrid[/bold]\n\n"
    "What it would take, without training: [bold]hybridize nha-llama-3-8b --dry-run[/bold]"
)


def command(
    spec: Annotated[
        str,
        typer.Argument(metavar="SPEC", help="A YAML file, or the name of a shipped spec.", autocompletion=completing.hybrids),
    ],
    base: Annotated[str | None, typer.Option(help="smollm2-135m, a checkpoint's folder or a hub id.")] = None,
    window: Annotated[str | None, typer.Option(help="Window of the layers that are not full, in tokens.")] = None,
    train: Annotated[str | None, typer.Option(help="lora, full or gates.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all that is drawn.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the spec: gate.activation=softmax. Repeatable."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="PATH", help="Folder. Default: results/runs/hybridize-NAME.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take: weights, tokens, memory, hours; train nothing.")
    ] = False,
) -> int:
    """Turn a Llama-family checkpoint into a hybrid: conversion, alignment, distillation, fine-tuning, as the spec says.

    The same command again goes on where it stopped. Flags override the spec. The hybrid lies in OUT/model, with its card.
    """
    from models.errors import ModelUnavailable
    from nha_eval.errors import UserError
    from nha_eval.hybridize.spec import read_hybrid_spec
    from nha_eval.paths import user_path
    from nha_eval.ranks import is_first
    from nha_eval.store import RUNS

    flags = {"base": base, "window": window, "train": train, "device": device, "dtype": dtype, "seed": seed, "out": out}
    name, chosen = read_hybrid_spec(spec, flags, change)
    try:
        if dry_run:
            from nha_eval.hybridize.estimate import estimate, show

            show(name, chosen, estimate(chosen))
            return 0
        from nha_eval.hybridize.stages import hybridize

        folder = user_path(chosen.out, "--out") if chosen.out else RUNS / f"hybridize-{name}"
        made = hybridize(chosen, Path(folder))
    except ModelUnavailable as problem:
        raise UserError(str(problem)) from problem
    if is_first():
        print(made)
    return 0
