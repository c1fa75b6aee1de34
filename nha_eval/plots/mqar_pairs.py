"""MQAR: accuracy against the key-value pairs, a curve a mixer, each at its setting that is best on the selection split."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._mqar import draw_against

TITLE = "Recall against the number of pairs"
ALT = "MQAR accuracy against the key-value pairs, a curve a mixer."
CAPTION = (
    "Multi-query associative recall on the test split. Each mixer is drawn at the one of its settings, and at the learning "
    "rate, that are best on the selection split: their states differ in size, which the plot `state-recall` tells. Sequences "
    "alike in key-value pairs are averaged. Means over seeds, bars from the worst seed to the best."
)
TABLES = ("mqar",)


def draw(mqar: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """One panel; NothingToDraw where nothing was tested."""
    return draw_against(mqar, "pairs", "key-value pairs", figure, columns)
