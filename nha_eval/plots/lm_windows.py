"""Language models side by side: perplexity at each window, a row a model by the window it was trained at, as a heat map."""

from __future__ import annotations

import textwrap

import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ._frames import clean_text, window_order
from ._proxies import averaged, measured, windows_of
from ._style import INK, PALETTE, PAPER, NothingToDraw, finish, panels, title

TITLE = "Windows trained at and tested at"
ALT = "A heat map of perplexity: models by the window they were trained at, down, and the window they are tested at, across."
CAPTION = (
    "Perplexity at the length trained at; framed where the window is the one trained at. A model trained at windows drawn at "
    "random has no frame. Darker is better."
)
TABLES = ("lm",)
FRAME = PALETTE[1]
_ROOM, _LINE = 26, 13  # characters of a model's name, and of a line of it


def draw(lm: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """A panel for all tokens and one for hits; NothingToDraw where no model was measured at several windows."""
    rows = measured(lm)
    rows = rows[rows["length"] == rows["trained_length"]]
    several = rows.groupby("model")["window"].nunique()
    rows = rows[rows["model"].map(several) > 1]
    parts = [part for part in ("all", "hits") if part in set(rows["part"])]
    if rows.empty or not parts:
        raise NothingToDraw("no windows to draw: no model of lm.csv was measured at several; give its spec `test_windows`")
    models, windows = list(dict.fromkeys(rows["model"])), windows_of(rows)
    trained = rows.groupby("model")["trained_window"].first()
    models.sort(key=lambda name: (name.split(" w=")[0], window_order(trained[name])))
    figure, all_axes = panels(len(parts), figure, columns)
    for axes, part in zip(all_axes, parts, strict=True):
        points = averaged(rows[rows["part"] == part], ["window"])
        values = points.pivot(index="model", columns="window", values="perplexity").reindex(index=models, columns=windows)
        picture = axes.imshow(values, aspect="auto", cmap="cividis", norm=LogNorm())
        middle = picture.norm(values.to_numpy())
        for row, name in enumerate(models):
            for column, window in enumerate(windows):
                value = values.loc[name, window]
                if pd.isna(value):
                    continue
                colour = INK if middle[row, column] > 0.6 else PAPER
                axes.text(column, row, _short(value), ha="center", va="center", fontsize=6, color=colour)
                if window == trained[name]:
                    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=FRAME, linewidth=2))
        axes.set_xticks(range(len(windows)), windows)
        axes.set_yticks(range(len(models)), [_lines(name) for name in models], fontsize=5.5, linespacing=0.95)
        axes.set_xlabel("window tested at (tokens)")
        axes.grid(visible=False)
        title(axes, "all tokens" if part == "all" else "hits")
    finish(figure, [Patch(facecolor="none", edgecolor=FRAME, linewidth=2, label="window trained at")])
    return figure


def _lines(name: str) -> str:
    return textwrap.fill(clean_text(name, _ROOM), _LINE)


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}" if value < 100_000 else f"{value:.0e}"
