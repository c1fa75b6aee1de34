"""Recall by where in the text the answer stood, a panel a suite and window."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from ._lines import cost_handles
from ._recall import NOTHING, Bin, draw_recall
from ._style import Code, NothingToDraw, finish

TITLE = "Recall by depth"
ALT = "Recall against the share of the text before the answer, in fifths, a line a model and window, a panel a window."
CAPTION = (
    "Depth is the share of the text before the answer: 0% is its beginning, farthest from the question. Settings without a "
    "window of that width stand beside it on the same documents. Bars are 95% intervals, Wilson's over as many documents as "
    "would be independent. All tasks and lengths of a suite together."
)
TABLES = ("scores", "costs", "answers")
FIFTHS = 5


def draw(
    scores: pd.DataFrame,
    costs: pd.DataFrame,
    answers: pd.DataFrame,
    figure: Figure | None = None,
    columns: int | None = None,
) -> Figure:
    """A panel a suite and window; NothingToDraw when no sample tells a depth."""
    rows = answers[answers["depth"].notna() & answers["correct"].notna()]
    if rows.empty:
        raise NothingToDraw(NOTHING)
    code = Code(pd.concat([scores, rows]), costs)
    figure, shown, drawn = draw_recall(rows, code, _cut, _aside, figure, columns)
    for axes, _ in shown:
        axes.set_xlim(0, 100)
        axes.set_xticks(range(0, 101, 100 // FIFTHS))
        axes.set_xlabel("depth of the answer (%)")
    finish(figure, cost_handles(drawn, code))
    return figure


def _aside(bins: list[Bin], steps: float) -> list[Bin]:
    return [replace(one, x=one.x + 1.5 * steps) for one in bins]


def _cut(rows: pd.DataFrame, _reach: float) -> list[Bin]:
    step = 100 / FIFTHS
    fifths = (rows["depth"] * FIFTHS).clip(upper=FIFTHS - 1).astype(int)
    return [
        Bin((place + 0.5) * step, f"depth {place * step:.0f} to {(place + 1) * step:.0f}%", part)
        for place, part in rows.groupby(fifths)
    ]
