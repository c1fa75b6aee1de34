"""Recall by how far back the answer stood, inside the window and beyond it, a panel a suite and window."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._lines import cost_handles
from ._recall import NOTHING, Bin, draw_recall
from ._style import INK, MUTED, PAPER, Code, NothingToDraw, finish, length_axis

TITLE = "Recall by distance"
ALT = "Recall against the tokens between the answer and the end of the prompt, a line a model and window, a panel a window."
CAPTION = (
    "Documents in steps that double, what is inside the window (filled) apart from what is beyond it (hollow). Settings "
    "without a window of that width stand beside it on the same documents. Bars are 95% intervals, Wilson's over as many "
    "documents as would be independent. All tasks and lengths of a suite together."
)
TABLES = ("scores", "costs", "answers")
_DOTS = (0, (1.2, 1.2))


def draw(
    scores: pd.DataFrame,
    costs: pd.DataFrame,
    answers: pd.DataFrame,
    figure: Figure | None = None,
    columns: int | None = None,
) -> Figure:
    """A panel a suite and window; NothingToDraw when no sample tells a distance."""
    rows = answers[answers["distance"].notna() & answers["correct"].notna()]
    if rows.empty:
        raise NothingToDraw(NOTHING)
    code = Code(pd.concat([scores, rows]), costs)
    figure, shown, drawn = draw_recall(rows, code, _cut, _aside, figure, columns)
    # Steps that double stand at equal steps.
    ends = [2.0**step for step in range(_step(drawn["distance"].min()), _step(drawn["distance"].max()) + 2)]
    # The last label's half must not leave the page.
    room = 1.5 if ends[-1] >= 10_000 else 1.1
    for axes, reach in shown:
        axes.axvline(reach, color=MUTED, linestyle=_DOTS, linewidth=1.1)
        length_axis(axes, ends)
        axes.set_xlim(ends[0] / 1.1, ends[-1] * room)
        axes.set_xlabel("distance of the answer (tokens)")
    sides = [
        Line2D([], [], color=INK, marker="o", markerfacecolor=face, linestyle="none", label=label)
        for face, label in ((INK, "inside the window"), (PAPER, "beyond it"))
    ]
    finish(figure, [*cost_handles(drawn, code), *sides, Line2D([], [], color=MUTED, linestyle=_DOTS, label="the window")])
    return figure


def _aside(bins: list[Bin], steps: float) -> list[Bin]:
    return [replace(one, x=one.x * 1.04**steps) for one in bins]


def _step(distance: float) -> int:
    return math.floor(math.log2(max(1.0, distance)))


def _cut(rows: pd.DataFrame, reach: float) -> list[Bin]:
    steps, inside = rows["distance"].map(_step), rows["distance"] < reach
    found = []
    for (step, within), part in rows.groupby([steps.rename("step"), inside.rename("inside")]):
        low, high = 2.0**step, 2.0 ** (step + 1)
        low, high = (low, min(high, reach)) if within else (max(low, reach), high)
        first, last = part["distance"].min(), part["distance"].max()
        where = f"{first:,.0f}" if first == last else f"{first:,.0f} to {last:,.0f}"
        words = f"{where} tokens back, {'inside' if within else 'beyond'}"
        found.append(Bin(math.sqrt(low * high), words, part, bool(within)))
    return sorted(found, key=lambda one: one.x)
