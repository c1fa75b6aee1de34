"""Pictures of a run: one file a kind, found by its name (`window_accuracy.py` is the kind `window-accuracy`).

A kind's module has `TITLE`, `ALT` (what a reader who cannot see the picture should know of its axes), `CAPTION` (how
to read it) and `draw(scores, costs, figure=None, columns=None) -> Figure`, which takes the tidy tables of
`load_frames`, draws the rows whose status is `ok`, and raises NothingToDraw when there are none. A kind that draws other
tables names them all, in `TABLES`. To add a kind, add its file. Nothing here imports torch.

    python -c "from nha_eval.plots import draw; draw('window-accuracy', 'results/runs/quickstart', 'window-accuracy.svg')"

In a notebook, after `%matplotlib inline`, a cell that ends in `figure('window-accuracy', RUN)` shows it; what is drawn under
`with style():` looks like these.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ._frames import Frames, load_frames, make_frames
    from ._style import style
    from ._summary import suite_scores, task_scores
    from ._training import training_figure

__all__ = [
    "Frames",
    "draw",
    "figure",
    "load_frames",
    "make_frames",
    "plot_kind",
    "plot_kinds",
    "plot_width",
    "render",
    "style",
    "suite_scores",
    "task_scores",
    "training_figure",
    "write_bytes",
]

# Imported on first use, as pandas takes half a second that naming the kinds should not.
_LAZY = {"style": "_style", "suite_scores": "_summary", "task_scores": "_summary", "training_figure": "_training"}
_LAZY |= dict.fromkeys(("Frames", "load_frames", "make_frames"), "_frames")


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


# Inches: a column of a two-column page, and the page.
WIDTHS = {"column": 3.25, "page": 6.75}
NARROWEST, WIDEST = 2.5, 30.0

# What would differ from one call to the next (dates, versions) stays out of the files.
_FORMATS = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "dpi": 160},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
}


def plot_kinds() -> list[str]:
    """The kinds there are, by name; imports none of them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def plot_kind(kind: str) -> ModuleType:
    """The module of a kind; ValueError with the nearest name when there is no such kind."""
    kinds = plot_kinds()
    if kind not in kinds:
        near = difflib.get_close_matches(str(kind), kinds, n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"no plot kind '{kind}'{hint} (there are: {', '.join(kinds)})")
    return importlib.import_module(f"{__name__}.{kind.replace('-', '_')}")


def plot_width(size: str | None) -> float | None:
    """Inches of a size: `column`, `page`, or a number of them; None for None. ValueError for what is none of these."""
    if size is None or size in WIDTHS:
        return WIDTHS.get(size)
    try:
        inches = float(size)
    except ValueError:
        inches = 0.0
    if not NARROWEST <= inches <= WIDEST:
        raise ValueError(
            f"no such size of a plot: {size!r}; wanted is {', '.join(WIDTHS)}, or a width of {NARROWEST} to {WIDEST} inches"
        )
    return inches


def figure(kind: str, source: object, *, columns: int | None = None, width: float | None = None) -> Figure:
    """The figure of `kind` from a run folder, Frames, or a dict of DataFrames.

    `columns` fixes how many panels stand side by side, `width` (inches) how wide it is altogether; the text stays as large.

    ValueError for an unknown kind, a source that cannot be read, or when no row has anything to draw.
    """
    from ._frames import load_frames
    from ._style import style

    module = plot_kind(kind)
    tables = getattr(module, "TABLES", ("scores", "costs"))
    frames = load_frames(source, answers="answers" in tables)

    with style(width):
        return module.draw(*(getattr(frames, name) for name in tables), columns=columns)


def render(drawn: Figure, file_format: str) -> bytes:
    """The bytes of a figure as `svg`, `png` or `pdf`; the same figure gives the same bytes."""
    import warnings

    from ._style import style

    buffer = io.BytesIO()
    with style(), warnings.catch_warnings():
        # Names may hold letters that the font lacks; SVG viewers find them elsewhere, PNG shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        drawn.savefig(buffer, format=file_format, **_FORMATS[file_format])
    return buffer.getvalue()


def draw(kind: str, source: object, out: str | Path, *, columns: int | None = None, width: float | None = None) -> Path:
    """Write the plot `kind` to `out`, by its suffix .svg, .png or .pdf; source, columns and width are those of `figure`.

    Returns `out`. ValueError for an unknown kind or suffix, or when there is nothing to draw; the file then stays as
    it was.
    """
    out = Path(out)
    file_format = out.suffix.lower().lstrip(".")
    if file_format not in _FORMATS:
        raise ValueError(f"cannot write a plot to '{out.name}'; wanted a file name that ends in .svg, .png or .pdf")
    write_bytes(out, render(figure(kind, source, columns=columns, width=width), file_format))
    return out


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a reader never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
