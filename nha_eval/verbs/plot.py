"""`plot`: one picture of a run, or of several joined."""

from typing import Annotated

import typer

from nha_eval import completing

EXAMPLE = (
    "Example: [bold]python run_eval.py plot window-accuracy results/runs/quickstart --out picture.svg[/bold] (`list` shows the "
    "kinds)\n\nFor a paper: [bold]plot window-accuracy RUN --size column --out picture.pdf[/bold]"
)


def command(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="What to draw; `list` shows the kinds.", autocompletion=completing.plots)
    ],
    run: Annotated[
        list[str],
        typer.Argument(metavar="RUN", help="Run folders, or names of some under results/runs; several are joined."),
    ],
    out: Annotated[str, typer.Option(metavar="PATH", help="Picture to write: .svg, .png or .pdf.")],
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="column (3.25 inches), page (6.75 inches), or inches. Default: as it comes."),
    ] = None,
) -> int:
    """Draw one picture from the tables of a run, or of several joined as `report` joins them."""
    from nha_eval.errors import UserError, nearest
    from nha_eval.paths import user_path
    from nha_eval.plots import draw, load_frames, plot_kind, plot_kinds, plot_width
    from nha_eval.store import find_runs

    if kind not in plot_kinds():
        raise UserError(f"no such plot: {kind!r}; {nearest(kind, plot_kinds(), what='plots')}")
    picture = user_path(out, "--out")
    if picture.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise UserError(f"--out {out}: wanted is a name that ends in .svg, .png or .pdf")
    folders = find_runs(run, ("eval", "train"))
    try:
        width = plot_width(size)
        if len(folders) == 1:
            frames = load_frames(folders[0], answers="answers" in getattr(plot_kind(kind), "TABLES", ()))
        else:
            from nha_eval.report.joining import join_folders

            frames = join_folders(folders)
        draw(kind, frames, picture, width=width)
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    except OSError as problem:
        raise UserError(f"cannot write {out}: {problem.strerror or problem}; give another place with --out") from problem
    print(picture)
    return 0
