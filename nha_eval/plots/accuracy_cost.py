"""Score against what it costs: the cache's state, prefill and decoding latency, a row of panels a suite at its
longest length.

Costs are those at one length, the longest that the most of the scored settings share, with the smallest batch
measured. The points of a model are joined from its narrowest to its widest window; error bars are 95% intervals.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._frames import window_order
from ._lines import cost_handles, measured
from ._settings import suite_label
from ._style import (
    BYTES,
    MILLISECONDS,
    PAPER,
    Code,
    NothingToDraw,
    finish,
    panels,
    scaled,
    score_axis,
    title,
    value_axis,
)
from ._summary import INTERVAL, longest_groups, of_group, suite_groups, suite_scores

TITLE = "Accuracy against cost"
ALT = (
    "Mean score of each suite against the bytes of state, the prefill latency and the decoding latency, a "
    "point a model and window."
)
CAPTION = (
    "Each suite at its longest length, costs at the longest length that most settings share. Up and to the "
    "left is better; lines join a model's windows, bars are 95% intervals, hollow markers are the mean of only "
    "some tasks."
)

_COSTS = (
    ("state_bytes", None, BYTES, "state"),
    ("latency_ms", "prefill", MILLISECONDS, "prefill"),
    ("latency_ms", "decode", MILLISECONDS, "decoding one token"),
)
_SETTING = ["model", "window"]


def shared_length(rows: pd.DataFrame) -> float:
    """The length at which the most settings were measured; the longest of several."""
    counts = rows.drop_duplicates([*_SETTING, "length"])["length"].value_counts()
    return float(max(length for length in counts.index if counts[length] == counts.max()))


def _pairs(scored: pd.DataFrame, costs: pd.DataFrame) -> list[tuple[pd.DataFrame, tuple, str]]:
    found = []
    for column, phase, units, name in _COSTS:
        rows = measured(costs, column)
        rows = rows[rows["phase"] == phase] if phase else rows
        rows = rows.merge(scored[_SETTING].drop_duplicates(), on=_SETTING)
        if rows.empty:
            continue
        smallest = rows["batch_size"].min()
        rows = rows if pd.isna(smallest) else rows[rows["batch_size"] == smallest]
        length = shared_length(rows)
        cost = rows[rows["length"] == length].groupby(_SETTING, as_index=False)[column].max()
        joined = scored.merge(cost.rename(columns={column: "cost"}), on=_SETTING)
        found.append((joined, units, f"{name} at {length:,.0f} tokens"))
    return found


def draw(scores: pd.DataFrame, costs: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """Suites down, costs across; NothingToDraw when no setting has both a score and a cost."""
    table = suite_scores(scores)
    groups = suite_groups(table)
    wanted = []
    for suite, length in longest_groups(table):
        wanted += [(suite_label(suite, length, groups), *pair) for pair in _pairs(of_group(table, suite, length), costs)]
    if not wanted:
        raise NothingToDraw("no accuracy against cost to draw: no model and window has both a score and a cost that are ok")
    code = Code(scores, costs)
    across = len(_pairs(table, costs))
    figure, all_axes = panels(len(wanted), figure, min(columns or across, across))
    for axes, (name, rows, units, xlabel) in zip(all_axes, wanted, strict=True):
        _draw_points(axes, rows, units, xlabel, code)
        title(axes, name)
    finish(figure, cost_handles(pd.concat([rows for _, rows, _, _ in wanted]), code))
    return figure


def _draw_points(axes: Axes, rows: pd.DataFrame, units: tuple, xlabel: str, code: Code) -> None:
    divisor, unit = scaled(rows["cost"].to_numpy(), units)
    for model in code.models:
        own = rows[rows["model"] == model]
        own = own.iloc[sorted(range(len(own)), key=lambda index: window_order(own["window"].iloc[index]))]
        colour = code.colour(model)
        numbered = own[own["window"].str.fullmatch(r"\d+|full")]
        axes.plot(
            numbered["cost"] / divisor,
            numbered["value"],
            color=colour,
            linestyle=code.line(model),
            linewidth=0.9,
            alpha=0.6,
        )
        for row in own.itertuples():
            axes.errorbar(
                *(row.cost / divisor, row.value, INTERVAL * row.stderr if pd.notna(row.stderr) else None),
                marker=code.marker(row.window),
                markersize=9 if row.window == "full" else 6,
                color=colour,
                markerfacecolor=colour if row.tasks == row.tasks_total else PAPER,
                elinewidth=1.0,
                linestyle="none",
                label=f"{model}|{row.window}",
            )
    value_axis(axes, (rows["cost"] / divisor).tolist(), which="x", zero=False)
    score_axis(axes, rows["value"].max(), rows["metric"].iloc[0])
    axes.set_xlabel(f"{xlabel} ({unit})")
