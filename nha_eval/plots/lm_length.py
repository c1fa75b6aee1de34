"""Language models side by side: perplexity of the same tokens in sequences of and beyond the length trained at."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._proxies import averaged, curves, look_of, measured, own
from ._style import MUTED, finish, length_axis, panels, title

TITLE = "Beyond the training's length"
ALT = "Perplexity against the length of a sequence, a curve a model, of all tokens and of associative-recall hits."
CAPTION = (
    "The same tokens at every length; the dotted line is the length trained at. Hits complete a bigram that stood earlier in "
    "the sequence and is rare in training. Bars: 95% intervals over documents of one seed, or the span of several. Down is "
    "better."
)
TABLES = ("lm",)


def draw(lm: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """A panel for all tokens and one for hits; NothingToDraw where nothing was measured."""
    rows = own(measured(lm))
    look, handles = look_of(rows)
    parts = [part for part in ("all", "hits") if part in set(rows["part"])]
    figure, all_axes = panels(len(parts), figure, columns)
    for axes, part in zip(all_axes, parts, strict=True):
        points = averaged(rows[rows["part"] == part], ["length"])
        curves(axes, points, "length", look)
        length_axis(axes, points["length"].tolist())
        for length in rows["trained_length"].dropna().unique():
            axes.axvline(length, color=MUTED, linestyle=":", linewidth=1.0)
        title(axes, "all tokens" if part == "all" else "hits")
    finish(figure, handles)
    return figure
