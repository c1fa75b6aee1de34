"""`plot`: one picture of a run."""

from typing import Annotated

import typer

from nha_eval import completing

EXAMPLE = (
    "Example: [bold]python run_eval.py plot KIND results/runs/quickstart --out picture.svg[/bold] (`list` shows the kinds)"
)


def command(
    kind: Annotated[str, typer.Argument(help="What to draw; `list` shows the kinds.", autocompletion=completing.plots)],
    run: Annotated[str, typer.Argument(help="A run folder, or the name of one under results/runs.")],
    out: Annotated[str, typer.Option(metavar="PATH", help="Picture to write: .svg, .png or .pdf.")],
) -> int:
    """Draw one picture from a run's tables."""
    from nha_eval.errors import UserError, nearest
    from nha_eval.paths import user_path
    from nha_eval.plots import draw, load_frames, plot_kinds
    from nha_eval.store import find_run

    if kind not in plot_kinds():
        raise UserError(f"no such plot: {kind!r}; {nearest(kind, plot_kinds(), what='plots')}")
    picture = user_path(out, "--out")
    if picture.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise UserError(f"--out {out}: wanted is a name that ends in .svg, .png or .pdf")
    folder = find_run(run)
    try:
        draw(kind, load_frames(folder), picture)
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    except OSError as problem:
        raise UserError(f"cannot write {out}: {problem.strerror or problem}; give another place with --out") from problem
    print(picture)
    return 0
