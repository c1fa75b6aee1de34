"""Score against window, a panel for every suite and length: what accuracy a narrower window costs, with and without
slots.

Error bars are 95% intervals. Full attention is a line across with its interval as a band, the constant answer a
dotted line; a hollow marker is the mean of only some of the suite's tasks (the run has not got further, or cells
failed). Windows stand at equal steps, so that 0 has a place; behind them settings by name, which no line joins.
"""

from __future__ import annotations

from string import ascii_lowercase

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._frames import clean_text, window_order
from ._settings import has_windows, is_named, setting_label, settings_of, suite_label
from ._style import INK, MUTED, PAPER, Code, NothingToDraw, finish, panels, score_axis, title
from ._summary import INTERVAL, of_group, score_words, suite_groups, suite_scores
from ._told import tell

TITLE = "Accuracy against window"
ALT = (
    "Mean score of each suite against the attention window, a line a model, with 95% intervals; full attention "
    "and the constant answer as lines across."
)
CAPTION = (
    "Bars are 95% intervals. A line across is full attention with its interval as a band; a dotted line is the "
    "constant answer; a hollow marker is the mean of only some of the suite's tasks. Settings by name stand behind the "
    "windows, and no line joins them."
)

_ROOM = 6  # characters under a place


def draw(scores: pd.DataFrame, costs: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """A panel a (suite, length); NothingToDraw when no scored cell is `ok`."""
    table = suite_scores(scores)
    if table.empty:
        raise NothingToDraw("no score to draw: no cell of scores.csv is ok yet")
    code = Code(scores, costs)
    settings = settings_of(table)
    moving = [model for model in code.models if has_windows(settings, model)]
    there = {window for model, window in settings if model in moving and window != "none"}
    places = sorted(there, key=lambda window: (_stands_apart(window), window_order(window)))
    ticks = _ticks(places)
    groups = suite_groups(table)
    figure, all_axes = panels(len(groups), figure, columns)
    for axes, (suite, length) in zip(all_axes, groups, strict=True):
        rows = of_group(table, suite, length)
        _draw_models(axes, rows, code, moving, places)
        _draw_lines(axes, rows, code, [model for model in code.models if model not in moving])
        majority = rows["majority"].dropna()
        if len(majority):
            constant = axes.axhline(majority.mean(), color=MUTED, linestyle=":", linewidth=1.3, label="constant answer")
            tell(constant, [f"constant answer\n{majority.mean():.3f}"])
        score_axis(axes, rows["value"].max(), rows["metric"].iloc[0])
        axes.set_xticks(
            range(len(places)),
            list(ticks.values()),
        )
        axes.set_xlim(-0.5, max(len(places), 1) - 0.5)
        if not places:
            axes.set_xticks([])
        axes.set_xlabel("window (tokens)" if places else "no windows measured")
        title(axes, suite_label(suite, length, groups))
    finish(figure, _handles(table, code, moving) + _names(ticks))
    return figure


def _stands_apart(window: str) -> bool:
    return not window.isdecimal() and window != "full"


def _ticks(places: list[str]) -> dict[str, str]:
    """What stands under each place; a letter for a name that is longer than there is room for."""
    long = [window for window in places if is_named(window) and len(window) > _ROOM]
    letters = {window: f"({ascii_lowercase[i % 26] * (i // 26 + 1)})" for i, window in enumerate(long)}
    return {window: letters.get(window, clean_text(window, 12)) for window in places}


def _names(ticks: dict[str, str]) -> list[Line2D]:
    letters = [(tick, window) for window, tick in ticks.items() if tick.startswith("(")]
    return [Line2D([], [], linestyle="none", label=f"{tick} {clean_text(window, 60)}") for tick, window in letters]


def _draw_models(axes, rows: pd.DataFrame, code: Code, moving: list[str], places: list[str]) -> None:
    for index, model in enumerate(moving):
        own = rows[(rows["model"] == model) & rows["window"].isin(places)]
        if own.empty:
            continue
        own = own.iloc[np.argsort([places.index(window) for window in own["window"]], kind="stable")]
        # A small step aside for each model keeps the error bars apart.
        x = np.array([places.index(window) for window in own["window"]]) + 0.09 * (index - (len(moving) - 1) / 2)
        numbered = ~own["window"].map(_stands_apart).to_numpy(dtype=bool)
        colour = code.colour(model)
        axes.plot(x[numbered], own["value"].to_numpy()[numbered], color=colour, linestyle=code.line(model), label=model)
        whole = (own["tasks"] == own["tasks_total"]).to_numpy()
        for part, face in ((whole, colour), (~whole, PAPER)):
            if part.any():
                bars = INTERVAL * own["stderr"].to_numpy()[part]
                drawn = axes.errorbar(
                    x[part],
                    own["value"].to_numpy()[part],
                    yerr=bars,
                    fmt=code.point(model),
                    color=colour,
                    markerfacecolor=face,
                    elinewidth=1.2,
                    zorder=3,
                )
                tell(drawn[0], [_words(row) for row in own[part].itertuples()])


def _draw_lines(axes, rows: pd.DataFrame, code: Code, fixed: list[str]) -> None:
    for model in fixed:
        for row in rows[rows["model"] == model].itertuples():
            colour = code.colour(model)
            line = axes.axhline(row.value, color=colour, linestyle=code.line(model), linewidth=1.4, label=model)
            tell(line, [_words(row)])
            if pd.notna(row.stderr):
                low, high = row.value - INTERVAL * row.stderr, row.value + INTERVAL * row.stderr
                axes.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)


def _words(row) -> str:
    return f"{setting_label((row.model, row.window))}\n{score_words(row)}"


def _handles(table: pd.DataFrame, code: Code, moving: list[str]) -> list[Line2D]:
    handles = []
    for model in code.models:
        if model not in set(table["model"]):
            continue
        handle = code.model_handle(model)
        if model in moving:
            handle.set_marker(code.point(model))
        elif (table.loc[table["model"] == model, "window"] == "full").any():
            handle.set_label(f"{handle.get_label()} (full attention)")
        handles.append(handle)
    if table["majority"].notna().any():
        handles.append(Line2D([], [], color=MUTED, linestyle=":", linewidth=1.3, label="constant answer"))
    if (table["tasks"] < table["tasks_total"]).any():
        handles.append(Line2D([], [], color=INK, marker="o", markerfacecolor=PAPER, linestyle="none", label="some tasks only"))
    return handles
