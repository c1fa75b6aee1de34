"""`train`: language models from scratch, one or several side by side, and MQAR with every mixer."""

from pathlib import Path
from typing import Annotated

import typer

from nha_eval import completing

EXAMPLE = (
    "Example: [bold]python run_eval.py train mqar-quick[/bold]\n\n"
    "What it would take, without training: [bold]train nha-340m-15b --dry-run[/bold]"
)


def command(
    spec: Annotated[
        str,
        typer.Argument(metavar="SPEC", help="A YAML file, or the name of a shipped spec.", autocompletion=completing.trainings),
    ],
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="MQAR and proxies: trainings at a time, each a process; on a GPU they share it.")
    ] = 1,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of the spec: text.source=path/to/tokens. Repeatable."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="PATH", help="Folder. Default: results/runs/train-NAME.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take: weights, tokens, FLOPs, memory, hours; train nothing.")
    ] = False,
) -> int:
    """Train what the spec says: a language model on text, several side by side, or small models of every mixer on MQAR.

    The same command again goes on where it stopped. Flags override the spec. A language model lies in OUT/model, several in
    OUT/models with their figures in OUT/README.md, MQAR's figures in OUT/mqar.csv (`plot state-recall OUT`).
    """
    from nha_eval.errors import UserError
    from nha_eval.paths import user_path
    from nha_eval.ranks import is_first, launched
    from nha_eval.store import RUNS
    from nha_eval.training.finding import read_training_spec

    name, chosen = read_training_spec(spec, {"device": device, "dtype": dtype, "out": out}, change)
    folder = Path(user_path(chosen.out, "--out") if chosen.out else RUNS / f"train-{name}")
    if (hasattr(chosen, "tasks") or hasattr(chosen, "models")) and launched() is not None:
        raise UserError(
            "several processes of one launch train one language model; MQAR and proxies, of which many are trained at a time, "
            "take --workers: give the command without a launcher"
        )
    if hasattr(chosen, "tasks"):
        if dry_run:
            from nha_eval.training.mqar.estimate import show_sweep

            show_sweep(name, chosen)
            return 0
        from nha_eval.training.mqar.sweep import sweep

        print(sweep(chosen, folder, workers))
        return 0
    if hasattr(chosen, "models"):
        if dry_run:
            from nha_eval.training.proxies.estimate import show_proxies

            show_proxies(name, chosen)
            return 0
        from nha_eval.training.proxies.sweep import sweep as train_proxies

        print(train_proxies(chosen, folder, workers))
        return 0
    if workers > 1:
        raise UserError(
            "--workers is for MQAR and proxies, of which many are trained at a time; for several GPUs use `accelerate launch`"
        )
    if dry_run:
        from nha_eval.training.estimate import estimate, show

        show(name, chosen, estimate(chosen))
        return 0
    from nha_eval.training.language import train_language

    made = train_language(chosen, folder)
    if is_first():
        print(made)
    return 0
