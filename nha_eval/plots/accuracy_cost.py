"""Score against what it costs: the cache's state, prefill and decoding latency, a row of panels a suite at its
longest length.

Costs are those at one length, the longest that the most of the scored settings share, with the smallest batch
measured, on one device and in one dtype, the same that gave the score. The points of a model are joined from its narrowest to
its widest window; error bars are 95% intervals. The front is made of the settings that no other one beats in both.
"""

from __future__ import annotations

from collections import Counter

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._frames import window_order
from ._lines import cost_handles, measured, places
from ._settings import setting_label, suite_label
from ._style import (
    BYTES,
    MILLISECONDS,
    MUTED,
    PAPER,
    Code,
    NothingToDraw,
    finish,
    fitting,
    panels,
    scaled,
    score_axis,
    title,
    value_axis,
)
from ._summary import INTERVAL, longest_groups, of_group, score_words, suite_groups, suite_scores
from ._told import tell

TITLE = "Accuracy against cost"
ALT = (
    "Mean score of each suite against the bytes of state, the prefill latency and the decoding latency, a "
    "point a model and window."
)
CAPTION = (
    "Each suite at its longest length, costs at the longest length that most settings share. Up and to the "
    "left is better; lines join a model's windows, bars are 95% intervals, hollow markers are the mean of only "
    "some tasks. The dotted front joins the settings that no other beats in both, by the figures alone, whatever their bars."
)

_COSTS = (
    ("state_bytes", None, BYTES, "state"),
    ("latency_ms", "prefill", MILLISECONDS, "prefill"),
    ("latency_ms", "decode", MILLISECONDS, "decoding one token"),
)
_FRONT = {"color": MUTED, "linestyle": (0, (1.2, 1.2)), "linewidth": 1.3}
_SETTING = ["model", "window"]


def shared_length(rows: pd.DataFrame) -> float:
    """The length at which the most settings were measured; the longest of several."""
    counts = rows.drop_duplicates([*_SETTING, "length"])["length"].value_counts()
    return float(max(length for length in counts.index if counts[length] == counts.max()))


def front(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows, cheapest first, that no other row is as cheap as and better than, or as good as and cheaper than; of `cost`
    and `value`. Means of only some tasks take no part."""
    whole = rows[rows["tasks"] == rows["tasks_total"]].sort_values(["cost", "value"], ascending=[True, False], kind="stable")
    best = whole["value"].cummax()
    return whole[whole["value"] > best.shift(fill_value=float("-inf"))]


def score_and_cost(
    scores: pd.DataFrame, costs: pd.DataFrame, suite: str, length: float
) -> list[tuple[str, str, tuple, pd.DataFrame]]:
    """(what, where, its units, rows of `suite_scores` with `cost`) for each kind of cost of the settings scored in the suite;
    `where` names the device and dtype where there are several."""
    here = of_group(scores, suite, length)
    scored = of_group(suite_scores(scores), suite, length)
    conditions = here[here["status"] == "ok"][[*_SETTING, "device", "dtype"]].drop_duplicates()
    found = []
    for column, phase, units, name in _COSTS:
        rows = measured(costs, column)
        rows = rows[rows["phase"] == phase] if phase else rows
        rows = rows.merge(conditions, on=[*_SETTING, "device", "dtype"])
        for where, part in places(rows):
            smallest = part["batch_size"].min()
            part = part if pd.isna(smallest) else part[part["batch_size"] == smallest]
            tokens = shared_length(part)
            cost = part[part["length"] == tokens].groupby(_SETTING, as_index=False)[column].max()
            joined = scored.merge(cost.rename(columns={column: "cost"}), on=_SETTING)
            found.append((f"{name} at {tokens:,.0f} tokens", where, units, joined))
    # A row of panels a device.
    return sorted(found, key=lambda one: one[1])


def draw(scores: pd.DataFrame, costs: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """Suites down, costs across; NothingToDraw when no setting has both a score and a cost."""
    table = suite_scores(scores)
    groups = suite_groups(table)
    wanted, across = [], 0
    for suite, length in longest_groups(table):
        found = score_and_cost(scores, costs, suite, length)
        across = max([across, *Counter(where for _, where, _, _ in found).values()])
        wanted += [(suite_label(suite, length, groups) + where, rows, units, what) for what, where, units, rows in found]
    if not wanted:
        raise NothingToDraw("no accuracy against cost to draw: no model and window has both a score and a cost that are ok")
    code = Code(scores, costs)
    figure, all_axes = panels(len(wanted), figure, min(columns or fitting(across), across))
    for axes, (name, rows, units, xlabel) in zip(all_axes, wanted, strict=True):
        _draw_points(axes, rows, units, xlabel, code)
        title(axes, name)
    handles = cost_handles(pd.concat([rows for _, rows, _, _ in wanted]), code)
    finish(figure, [*handles, Line2D([], [], **_FRONT, label="front")])
    return figure


def _draw_points(axes: Axes, rows: pd.DataFrame, units: tuple, xlabel: str, code: Code) -> None:
    divisor, unit = scaled(rows["cost"].to_numpy(), units)
    best = front(rows)
    axes.plot(best["cost"] / divisor, best["value"], **_FRONT, drawstyle="steps-post", label="_front")
    on_front = set(best.index)
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
            drawn = axes.errorbar(
                *(row.cost / divisor, row.value, INTERVAL * row.stderr if pd.notna(row.stderr) else None),
                marker=code.marker(row.window),
                markersize=9 if row.window == "full" else 6,
                color=colour,
                markerfacecolor=colour if row.tasks == row.tasks_total else PAPER,
                elinewidth=1.0,
                linestyle="none",
                label=f"{model}|{row.window}",
            )
            words = f"{score_words(row)}\n{row.cost / divisor:,.4g} {unit}" + (
                ", on the front" if row.Index in on_front else ""
            )
            tell(drawn[0], [f"{setting_label((model, row.window))}\n{words}"])
    value_axis(axes, (rows["cost"] / divisor).tolist(), which="x", zero=False)
    score_axis(axes, rows["value"].max(), rows["metric"].iloc[0])
    axes.set_xlabel(f"{xlabel} ({unit})")
