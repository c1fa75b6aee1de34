"""`prefetch`: data, weights and tokenizers, before going offline."""

import json as jsons
from typing import Annotated

import typer

from nha_eval import completing

EXAMPLE = (
    "Example: [bold]python run_eval.py prefetch recall commonsense[/bold], or [bold]prefetch ruler --model org/name "
    "--data essays=essays.txt[/bold]"
)


def command(
    suite: Annotated[
        list[str],
        typer.Argument(
            metavar="SUITE", help="Suites of tasks (`list` shows them), or text:debian.", autocompletion=completing.suites
        ),
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="Also this model and its tokenizer: preset, folder or hub id. Repeatable.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH", help="As in `eval`: local data in the hub's place, or the folder of what is fetched."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> int:
    """Bring everything that suites need, and say of each what it is, where it is from, its licence, size and checksum.

    What is there already is not fetched again. Exit codes: 0 all is there, 1 stopped by the machine, 2 wrong input, 3 something
    cannot be had.
    """
    import os

    from nha_eval import prefetching
    from nha_eval.errors import UserError
    from nha_eval.paths import user_path
    from nha_eval.spec import split_data

    try:
        folder, named = split_data(data) if data else (None, {})
    except ValueError as problem:
        raise UserError(f"--data: {problem}") from problem
    if folder:
        # Read by whoever looks something up in the cache.
        os.environ["NHA_EVAL_CACHE"] = str(user_path(folder, "--data").absolute())
    rows = prefetching.prefetch(suite, model, named)
    if json:
        print(jsons.dumps(prefetching.as_json(rows), indent=1))
    else:
        prefetching.show(rows)
    return prefetching.exit_code(rows)
