"""How much of attention goes to the slots: by layer, with the span of its heads, and by position in the sequence.

Drawn from telemetry.csv, which a run has where it was asked for; all tasks and lengths of a setting count together.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from ._lines import cost_handles
from ._settings import setting_label, settings_of
from ._shares import by_layer, by_position
from ._style import Code, NothingToDraw, finish, length_axis, panels, title
from ._told import tell

TITLE = "Attention on the slots"
ALT = "The share of the softmax on the slots against the layer and against the position, a line a model and window."
CAPTION = (
    "The share of the softmax that goes to the slots, the rest going to the window. Left: a layer's mean over its query "
    "heads, in a band from the head with the least to the one with the most. Right: the mean over layers and heads, by the "
    "query's position. Queries before the slots hold anything are not counted."
)
TABLES = ("scores", "costs", "telemetry")


def draw(
    scores: pd.DataFrame,
    costs: pd.DataFrame,
    telemetry: pd.DataFrame,
    figure: Figure | None = None,
    columns: int | None = None,
) -> Figure:
    """A panel by layer and one by position; NothingToDraw when the run has no telemetry."""
    layers, positions = by_layer(telemetry), by_position(telemetry)
    if layers.empty or positions.empty:
        raise NothingToDraw("no share of the slots to draw: telemetry.csv holds none; it comes with `eval --telemetry`")
    code = Code(pd.concat([scores, telemetry]), costs)
    figure, (left, right) = panels(2, figure, columns)
    _draw(left, layers, "layer", code)
    left.set_xlabel("layer")
    left.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    title(left, "by layer")
    _draw(right, positions, "position_first", code)
    length_axis(right, positions["position_first"].tolist())
    right.set_xlabel("position in the sequence, from (tokens)")
    title(right, "by position")
    finish(figure, cost_handles(layers, code))
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, column: str, code: Code) -> None:
    for model, window in settings_of(rows):
        own = rows[(rows["model"] == model) & (rows["window"] == window)].sort_values(column)
        colour = code.colour(model)
        (line,) = axes.plot(
            *(own[column], own["share"]),
            color=colour,
            linestyle=code.line(model),
            marker=code.marker(window),
            markersize=4,
            linewidth=1.2,
            label=f"{model}|{window}",
        )
        where = "layer" if column == "layer" else "position from"
        name = setting_label((model, window))
        tell(line, [f"{name}\n{where} {x:,.0f}: {y:.3f}" for x, y in zip(own[column], own["share"], strict=True)])
        if "low" in own:
            axes.fill_between(own[column], own["low"], own["high"], color=colour, alpha=0.1, linewidth=0)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.set_ylabel("share on the slots")
