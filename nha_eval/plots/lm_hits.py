"""Language models side by side: perplexity by how often the bigram comes in training, of those that stood in the context before
and of those that did not."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._proxies import NOTHING, averaged, curves, look_of, measured, own
from ._style import NothingToDraw, finish, panels, title

TITLE = "Associative recall in language"
ALT = "Perplexity against how often a bigram comes in training, a curve a model, apart for bigrams met in the context before."
CAPTION = (
    "Tokens by how often they followed the one before them in training, each class from the number under it up to the next; at "
    "the length trained at. Left, the same two stood beside each other earlier in the sequence: where they are rare, what "
    "comes can be looked up there alone (associative recall). Right, they did not. Down is better."
)
TABLES = ("lm",)
WORDS = {"seen": "bigram in the context before", "new": "bigram not in the context before"}


def draw(lm: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """A panel a kind; NothingToDraw where nothing was measured by bigrams."""
    rows = own(measured(lm))
    rows = rows[rows["part"].isin(list(WORDS)) & (rows["length"] == rows["trained_length"])]
    if rows.empty:
        raise NothingToDraw(NOTHING)
    look, handles = look_of(rows)
    classes = sorted(set(rows["first"]))
    rows = rows.assign(place=rows["first"].map(classes.index))
    kinds = [kind for kind in WORDS if kind in set(rows["part"])]
    figure, all_axes = panels(len(kinds), figure, columns)
    for axes, kind in zip(all_axes, kinds, strict=True):
        curves(axes, averaged(rows[rows["part"] == kind], ["place"]), "place", look)
        axes.set_xticks(range(len(classes)), [f"{first:,.0f}" for first in classes])
        axes.set_xlim(-0.4, len(classes) - 0.6)
        axes.set_xlabel("times in training, from")
        title(axes, WORDS[kind])
    finish(figure, handles)
    return figure
