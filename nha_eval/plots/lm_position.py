"""Language models side by side: perplexity by the position in the longest sequences that were measured."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._proxies import NOTHING, averaged, curves, look_of, measured, own
from ._style import MUTED, NothingToDraw, finish, length_axis, panels

TITLE = "Perplexity by position"
ALT = "Perplexity against the position in a sequence, a curve a model."
CAPTION = (
    "Each point is a span of positions up to the next one, in the longest sequences measured; the dotted line is the length "
    "trained at. Down is better."
)
TABLES = ("lm",)


def draw(lm: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """One panel; NothingToDraw where nothing was measured by position."""
    rows = own(measured(lm))
    rows = rows[(rows["part"] == "position") & (rows["length"] == rows["length"].max())]
    if rows.empty:
        raise NothingToDraw(NOTHING)
    look, handles = look_of(rows)
    # A span stands where it begins, the first at its middle, as 0 has no place on such an axis.
    rows = rows.assign(place=rows["first"].where(rows["first"] > 0, (rows["last"] + 1) / 2))
    figure, (axes,) = panels(1, figure, columns)
    points = averaged(rows, ["place"])
    curves(axes, points, "place", look)
    length_axis(axes, points["place"].tolist())
    for length in rows["trained_length"].dropna().unique():
        axes.axvline(length, color=MUTED, linestyle=":", linewidth=1.0)
    axes.set_xlabel("position in the sequence, from (tokens)")
    finish(figure, handles)
    return figure
