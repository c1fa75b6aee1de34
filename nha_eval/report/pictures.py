"""Every kind of plot that the run has figures for, written as files and made ready for the page in a wide and a
narrow form."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from nha_eval.plots import Frames, figure, plot_kind, plot_kinds, render, write_bytes
from nha_eval.plots._style import NothingToDraw
from nha_eval.plots._told import told

from .sections import Picture
from .svg import inline


def draw_pictures(frames: Frames, folder: Path) -> tuple[dict[str, Picture], list[Path]]:
    """Draw into `folder` (KIND.svg and KIND.png); returns the pictures by kind, and the files.

    A kind that has nothing to draw leaves no files, nor keeps those of an earlier report.
    """
    pictures, written = {}, []
    for kind in plot_kinds():
        paths = {suffix: folder / f"{kind}.{suffix}" for suffix in ("svg", "png")}
        try:
            wide = figure(kind, frames)
        except NothingToDraw:
            for path in paths.values():
                path.unlink(missing_ok=True)
            continue
        files = {suffix: render(wide, suffix) for suffix in paths}
        for suffix, path in paths.items():
            write_bytes(path, files[suffix])
            written.append(path)
        module = plot_kind(kind)
        across = wide.axes[0].get_subplotspec().get_gridspec().ncols
        slim = wide if across == 1 else figure(kind, frames, columns=1)
        narrow = files["svg"] if slim is wide else render(slim, "svg")
        label = f"{module.TITLE}. {module.ALT}"
        pictures[kind] = Picture(
            kind,
            module.TITLE,
            module.ALT,
            module.CAPTION,
            Markup(inline(files["svg"], f"{kind}-wide", label, told(wide))),
            Markup(inline(narrow, f"{kind}-narrow", label, told(slim))),
            across,
        )
    return pictures, written
