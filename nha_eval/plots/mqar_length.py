"""MQAR: accuracy against the length, a curve a mixer, each at its setting that is best on the selection split."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._mqar import Look, against, draw_curve
from ._style import finish, length_axis, panels, score_axis

TITLE = "Recall against length"
ALT = "MQAR accuracy against the length, a curve a mixer."
CAPTION = (
    "Multi-query associative recall on the test split. Each mixer is drawn at the one of its settings, and at the learning "
    "rate, that are best on the selection split: their states differ in size, which the plot `state-recall` tells. Sequences "
    "alike in length are averaged. Means over seeds, bars from the worst seed to the best."
)
TABLES = ("mqar",)


def draw(mqar: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """One panel; NothingToDraw where nothing was tested."""
    points, words = against(mqar, "length")
    figure, (axes,) = panels(1, figure, columns)
    look = Look(points["name"].tolist())
    for name in look.names:
        draw_curve(axes, points[points["name"] == name], "length", look, name)
    length_axis(axes, points["length"].tolist())
    score_axis(axes, 1.0, "accuracy")
    axes.set_xlabel("length (tokens)")
    finish(figure, look.handles(words))
    return figure
