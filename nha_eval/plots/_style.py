"""The look that all plots share: colours, the code of lines and markers, panels, legends and axes.

A model is a colour and a line style, a window is a marker, in every plot alike but where the windows are an axis: there a
model whose colour has come before is another marker. The palette is Okabe and Ito's, told apart with any colour vision; full
attention is drawn in ink. The report replaces these very hex values by its theme's (see THEMED), so that one SVG serves
light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullFormatter, NullLocator

from ._frames import clean_text, model_order, window_order
from ._settings import has_windows, settings_of, window_label

INK, MUTED, GRID, PAPER = "#1b1f24", "#5c6670", "#d8dde3", "#ffffff"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8b5a2b")
# Of a mixer, in every picture that knows of mixers; those of other names have the rest of the palette first.
MIXERS = dict(zip(("nha", "swa", "gsa", "gla", "gated-deltanet", "mamba2"), (*PALETTE[:4], *PALETTE[5:]), strict=True))
# CSS variable of the report's page for each colour a plot may use.
THEMED = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    **{colour: f"--series-{index}" for index, colour in enumerate(PALETTE, 1)},
}
LINES = ("-", (0, (5, 1.5)), (0, (5, 1.5, 1, 1.5)), (0, (1.2, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">")
PANEL_WIDTH, PANEL_HEIGHT = 3.4, 2.7
# Inches around a panel's frame, and for a row of the legend.
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.72, 0.14, 0.32, 0.52
_LEGEND_ROW = 0.2


class NothingToDraw(ValueError):
    """The tables hold no row that this kind of plot could show."""


_width: ContextVar[float | None] = ContextVar("width", default=None)


@contextmanager
def style(width: float | None = None) -> Iterator[None]:
    """The project's matplotlib style and nothing of the user's own settings; lines without a colour take the palette's. Figures
    made within are `width` inches wide, by default as their panels want."""
    sheets = ["default", str(Path(__file__).with_name("nha.mplstyle")), {"axes.prop_cycle": cycler(color=PALETTE)}]
    before = _width.set(width)
    try:
        with matplotlib.style.context(sheets):
            yield
    finally:
        _width.reset(before)


class Code:
    """Colour and line style a model, marker a window, from all rows of a run so that its plots agree.

    Attributes: models (drawing order), windows (ascending); methods colour(model), line(model), point(model), marker(window).
    """

    def __init__(self, scores: pd.DataFrame, costs: pd.DataFrame) -> None:
        self.models = model_order(scores, costs)
        settings = settings_of(scores, costs)
        self.windows = sorted({window for _, window in settings}, key=window_order)
        moving = [model for model in self.models if has_windows(settings, model)]
        whole = [model for model in self.models if model not in moving and (model, "full") in settings]
        # Ink is for the one full-attention line that everything is measured against.
        self._ink = whole[0] if len(whole) == 1 else None
        self._place = {model: index for index, model in enumerate(m for m in self.models if m != self._ink)}
        numbered = [window for window in self.windows if window not in ("full", "none")]
        self._marker = {window: MARKERS[index % len(MARKERS)] for index, window in enumerate(numbered)}

    def colour(self, model: str) -> str:
        return INK if model == self._ink else PALETTE[self._place[model] % len(PALETTE)]

    def line(self, model: str) -> object:
        return "-" if model == self._ink else LINES[self._place[model] % len(LINES)]

    def point(self, model: str) -> str:
        """A marker of the model, where windows are an axis: another one where colours come again."""
        return "o" if model == self._ink else MARKERS[self._place[model] // len(PALETTE) % len(MARKERS)]

    def marker(self, window: str) -> str:
        return {"full": "*", "none": "h"}.get(window) or self._marker[window]

    def model_handle(self, model: str) -> Line2D:
        return Line2D([], [], color=self.colour(model), linestyle=self.line(model), label=clean_text(model, 34))

    def window_handle(self, window: str) -> Line2D:
        return Line2D([], [], color=MUTED, marker=self.marker(window), linestyle="none", label=window_label(window))


def fitting(usual: int) -> int:
    """How many panels stand side by side in the width that is asked for, `usual` where none is."""
    wide = _width.get()
    return usual if wide is None else max(1, round(wide / PANEL_WIDTH))


def panels(count: int, figure: Figure | None = None, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """`count` axes on a figure (a new one unless given), in `columns` columns (by default what fits a page)."""
    columns = min(count, columns or fitting(3 if count % 3 == 0 or count > 4 else 2))
    figure = figure or Figure()
    grid = figure.add_gridspec(math.ceil(count / columns), columns)
    return figure, [figure.add_subplot(grid[index // columns, index % columns]) for index in range(count)]


def finish(figure: Figure, handles: list) -> None:
    """Size the figure and lay it out: panels of one size, and one legend under them in as many columns as its labels allow.

    The margins are fixed lengths that the style's text fits into. Measuring every label instead (matplotlib's layout
    engines do) takes longer than drawing.
    """
    axes = figure.axes
    grid = axes[0].get_subplotspec().get_gridspec()
    # One panel alone is drawn wider: it has the page to itself.
    width = _width.get() or (4.6 if len(axes) == 1 else PANEL_WIDTH * grid.ncols)
    longest = max((len(handle.get_label()) for handle in handles), default=0)
    columns = max(1, min(len(handles), int(width * 72 / (longest * 5.3 + 42))))
    band = _LEGEND_ROW * math.ceil(len(handles) / columns) + 0.1 if handles else 0.0
    top = _TOP + 0.17 * max(one.get_title(loc="left").count("\n") for one in axes)
    height = (PANEL_HEIGHT + top - _TOP) * grid.nrows + band
    figure.set_size_inches(width, height)
    inner_width = width / grid.ncols - _LEFT - _RIGHT
    inner_height = (height - band) / grid.nrows - top - _BOTTOM
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - _RIGHT / width,
        bottom=(band + _BOTTOM) / height,
        top=1 - top / height,
        wspace=(_LEFT + _RIGHT) / inner_width,
        hspace=(top + _BOTTOM) / inner_height,
    )
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=columns, borderaxespad=0.2)


def title(axes: Axes, text: str) -> None:
    """A panel's title, on two lines where it would run out of the panel."""
    words, lines = clean_text(text, 72).split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > 38:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    axes.set_title("\n".join(lines))


def length_axis(axes: Axes, lengths: list[float]) -> None:
    """A logarithmic axis of tokens whose ticks are the measured lengths, thinned where they would collide."""
    axes.set_xscale("log", base=2)
    span = math.log2(max(lengths) / min(lengths)) if len(lengths) > 1 and min(lengths) > 0 else 0
    shown: list[float] = []
    for length in sorted(set(lengths), reverse=True):
        if length > 0 and (not shown or math.log2(shown[-1] / length) >= max(0.17 * span, 0.1)):
            shown.append(length)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("length (tokens)")
    if span == 0:
        axes.set_xlim(shown[0] / 2, shown[0] * 2)


def value_axis(axes: Axes, values: list[float], which: str = "y", log: bool = True, zero: bool = True) -> None:
    """Plain numbers on an axis: logarithmic where `log` and the values span a factor of four, else linear from 0
    (unless `zero` is false)."""
    axis = getattr(axes, f"{which}axis")
    positive = [value for value in values if value > 0]
    low, high = (min(positive), max(positive)) if positive else (0.0, 1.0)
    if log and low > 0 and high / low >= 4:
        getattr(axes, f"set_{which}scale")("log")
        margin = (high / low) ** 0.07
        getattr(axes, f"set_{which}lim")(low / margin, high * margin)
        decades = math.log10(high / low)
        axis.set_major_locator(LogLocator(base=10, subs=(1,) if decades > 2.5 else (1, 3) if decades > 1.5 else (1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())
    else:
        room = 0.08 * high if zero or high == low else 0.15 * (high - low)
        getattr(axes, f"set_{which}lim")(0 if zero else low - room, high + room)
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def score_axis(axes: Axes, highest: float, metric: str) -> None:
    """Scores from 0 to 1 (or beyond, where a metric goes there), with room below 0 so that a marker at 0 is seen
    whole."""
    top = max(1.0, highest * 1.05)
    axes.set_ylim(-0.03 * top, top)
    axes.yaxis.set_major_locator(MultipleLocator(0.2) if top <= 1.05 else MaxNLocator(5))
    axes.set_ylabel(f"score ({metric})")


def scaled(values: np.ndarray, units: tuple[tuple[float, str], ...]) -> tuple[float, str]:
    """(divisor, unit) from `units`, ascending, that keeps the largest of `values` at 2 or more."""
    largest = np.nanmax(values)
    fitting = [unit for unit in units if largest >= 2 * unit[0]]
    return fitting[-1] if fitting else units[0]


MILLISECONDS = ((1.0, "ms"), (1000.0, "s"))
TOKENS = ((1.0, "tokens/s"), (1000.0, "thousand tokens/s"))
MEBIBYTES = ((1.0, "MiB"), (1024.0, "GiB"))
BYTES = ((1.0, "bytes"), (1024.0, "KiB"), (1024.0**2, "MiB"), (1024.0**3, "GiB"))
