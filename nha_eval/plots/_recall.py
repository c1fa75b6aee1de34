"""What the two plots of recall share: a panel a suite and window, the settings of that window beside those without any.

The rows are `Frames.answers`, a document each. An answer is inside a window of w tokens where its distance is below w.
Intervals are Wilson's at 95%, over as many documents as would be independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nha_eval.stats import score_interval

from ._settings import Setting, setting_label, settings_of, suite_label
from ._style import PAPER, Code, NothingToDraw, panels, score_axis, title
from ._told import tell

AT_MOST = 9  # panels
NOTHING = "no recall to draw: the run has no samples of recall tasks that tell where the answer stood"


@dataclass(frozen=True)
class Bin:
    """Documents that are one point: its place on the axis, what they are, and whether all are inside (None: not said)."""

    x: float
    words: str
    rows: pd.DataFrame
    inside: bool | None = None


Cut = Callable[[pd.DataFrame, float], list[Bin]]  # a setting's rows, and the window in tokens
Aside = Callable[[list[Bin], float], list[Bin]]  # a step aside for each setting keeps the bars apart


def draw_recall(
    answers: pd.DataFrame, code: Code, cut: Cut, aside: Aside, figure: Figure | None, columns: int | None
) -> tuple[Figure, list[tuple[Axes, float]], pd.DataFrame]:
    """A line a setting in each panel. Returns the figure, each panel with its window, and the rows drawn; the caller finishes
    it. NothingToDraw where no setting has a width."""
    suites = list(dict.fromkeys(answers["suite"]))
    wanted = [(suite, reach) for suite in suites for reach in sorted(set(_of(answers, suite)["reach"].dropna()))][:AT_MOST]
    if not wanted:
        raise NothingToDraw(NOTHING)
    figure, all_axes = panels(len(wanted), figure, columns)
    shown = []
    for axes, (suite, reach) in zip(all_axes, wanted, strict=True):
        rows = _of(answers, suite)
        rows = rows[rows["reach"].isna() | (rows["reach"] == reach)]
        settings = settings_of(rows)
        for place, setting in enumerate(settings):
            own = rows[(rows["model"] == setting[0]) & (rows["window"] == setting[1])]
            _draw_line(axes, aside(cut(own, reach), place - (len(settings) - 1) / 2), code, setting)
        score_axis(axes, 1.0, "first metric")
        title(axes, f"{suite_label(suite, float('nan'), [])}, window {reach:,.0f}")
        shown.append(rows)
    return figure, [(axes, reach) for axes, (_, reach) in zip(all_axes, wanted, strict=True)], pd.concat(shown)


def _of(answers: pd.DataFrame, suite: str) -> pd.DataFrame:
    return answers[answers["suite"] == suite]


def _draw_line(axes: Axes, bins: list[Bin], code: Code, setting: Setting) -> None:
    model, window = setting
    colour, name = code.colour(model), setting_label(setting)
    axes.plot(
        [one.x for one in bins],
        [one.rows["correct"].mean() for one in bins],
        color=colour,
        linestyle=code.line(model),
        linewidth=1.2,
        label=f"{model}|{window}",
    )
    for side in (True, False, None):
        own = [one for one in bins if one.inside is side]
        if not own:
            continue
        values = [one.rows["correct"].mean() for one in own]
        bounds = [_interval(one.rows, value) for one, value in zip(own, values, strict=True)]
        below = [max(0.0, value - low) for value, (low, _) in zip(values, bounds, strict=True)]
        above = [max(0.0, high - value) for value, (_, high) in zip(values, bounds, strict=True)]
        drawn = axes.errorbar(
            *([one.x for one in own], values, [below, above]),
            color=colour,
            marker=code.marker(window),
            markersize=8 if window == "full" else 5.5,
            markerfacecolor=PAPER if side is False else colour,
            elinewidth=0.9,
            linestyle="none",
        )
        tell(
            drawn[0],
            [
                f"{name}\n{one.words}: {value:.3f}, 95% interval {low:.3f} to {high:.3f}, n = {len(one.rows)}"
                for one, value, (low, high) in zip(own, values, bounds, strict=True)
            ],
        )


def _interval(rows: pd.DataFrame, value: float) -> tuple[float, float]:
    return _bounds(tuple(rows["correct"]), tuple(rows["cluster"])) or (value, value)


# A page draws the same figures twice, wide and narrow, and full attention stands in every panel.
_bounds = lru_cache(maxsize=4096)(score_interval)
