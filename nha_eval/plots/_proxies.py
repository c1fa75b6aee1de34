"""What the plots of language models trained side by side share: their rows, seeds averaged, and how curves are drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ._frames import window_order
from ._mqar import Look
from ._style import NothingToDraw, value_axis

NOTHING = "no language models to draw: lm.csv holds no perplexity; it comes with `train` of a spec of several models"


def measured(lm: pd.DataFrame) -> pd.DataFrame:
    """The rows with figures. Raises NothingToDraw where there are none."""
    rows = lm[(lm["status"] == "ok") & lm["nll"].notna() & (lm["length"] > 0)]
    if rows.empty:
        raise NothingToDraw(NOTHING)
    return rows


def own(rows: pd.DataFrame) -> pd.DataFrame:
    """Those at the window a model was trained at; of one trained at windows drawn at random, the first that it has rows at."""
    first = rows.groupby("model", sort=False)["window"].first()
    trained = rows["trained_window"].where(rows["trained_window"] != "drawn", rows["model"].map(first))
    return rows[rows["window"] == trained]


def averaged(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """A row a model and group: perplexity of the loss averaged over seeds; low, high: the least and greatest of a seed, or of
    one seed its interval.
    """
    keys = ["model", *by]
    groups = rows.groupby(keys, as_index=False, sort=False)
    found = groups.agg(nll=("nll", "mean"), least=("nll", "min"), greatest=("nll", "max"), seeds=("seed", "nunique"))
    ends = groups[["ci_low", "ci_high"]].first()
    several = found["seeds"] > 1
    low = np.where(several, np.exp(found["least"]), ends["ci_low"])
    high = np.where(several, np.exp(found["greatest"]), ends["ci_high"])
    return found.assign(perplexity=np.exp(found["nll"]), low=low, high=high)


def curves(axes: Axes, points: pd.DataFrame, x: str, look: Look) -> None:
    """Perplexity against the column `x`, a curve a model."""
    for name in look.names:
        rows = points[points["model"] == name].sort_values(x)
        if rows.empty:
            continue
        bars = np.nan_to_num([rows["perplexity"] - rows["low"], rows["high"] - rows["perplexity"]]).clip(min=0)
        axes.errorbar(
            rows[x], rows["perplexity"], bars, **look.of(name), markersize=4.5, linewidth=1.3, elinewidth=1.0, label=name
        )  # fmt: skip
    value_axis(axes, points[["low", "perplexity", "high"]].stack().tolist(), zero=False)
    axes.set_ylabel("perplexity")


def look_of(rows: pd.DataFrame) -> tuple[Look, list[Line2D]]:
    """(the models' looks, their legend)."""
    look = Look(rows["model"].tolist())
    return look, look.handles({name: name for name in look.names})


def windows_of(rows: pd.DataFrame) -> list[str]:
    return sorted(set(rows["window"]), key=window_order)
