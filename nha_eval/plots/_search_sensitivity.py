"""What each layer's window alone costs, from a sensitivity.csv: layers across, windows down, KL as colour.

Not one of the kinds of `plots.plot_kinds`, as it draws a table of its own and no run's.

    python -c "from nha_eval.plots._search_sensitivity import write; write('results/runs/search-NAME')"
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ._bench_lines import typed, write_figure
from ._frames import clean_text
from ._style import INK, NothingToDraw, style

NUMBERS = ("layer", "window", "kl", "answer_loss")
# Inches around the picture, to the right with the bar of colours.
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.72, 1.1, 0.32, 0.52
LEAST = 1e-5  # nats a token; below it KL is rounding


def write(folder: str | Path) -> list[Path]:
    """Draw a folder's sensitivity.csv as sensitivity.svg and .png in `plots`. ValueError when there is nothing to draw."""
    folder = Path(folder)
    with style():
        figure = draw(pd.read_csv(folder / "sensitivity.csv", dtype=str, keep_default_na=False))
    return write_figure(figure, folder / "plots", "sensitivity")


def draw(table: pd.DataFrame) -> Figure:
    """The figure of a sensitivity.csv read as text; NothingToDraw when no layer was measured."""
    rows = typed(table, ("model",), NUMBERS).dropna(subset=["kl"])
    if rows.empty:
        raise NothingToDraw("no layer to draw: sensitivity.csv holds no KL yet")
    wide = rows.pivot_table(index="window", columns="layer", values="kl").sort_index(ascending=False)
    values = np.maximum(wide.to_numpy(), LEAST)
    inner = max(3.0, 0.22 * wide.shape[1]), max(0.8, 0.36 * wide.shape[0])
    width, height = inner[0] + _LEFT + _RIGHT, inner[1] + _BOTTOM + _TOP
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((_LEFT / width, _BOTTOM / height, inner[0] / width, inner[1] / height))
    norm = LogNorm(vmin=max(LEAST, np.nanmin(values)), vmax=max(np.nanmax(values), 10 * LEAST))
    picture = axes.imshow(values, aspect="auto", cmap="cividis", norm=norm)
    axes.set_yticks(range(len(wide)), [f"{window:.0f}" for window in wide.index])
    axes.set_xlim(-0.5, wide.shape[1] - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    layers = [f"{layer:.0f}" for layer in wide.columns]
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: layers[int(at)] if 0 <= at < len(layers) else ""))
    axes.set_xlabel("layer")
    axes.set_ylabel("window (tokens)")
    axes.set_title(f"{clean_text(rows['model'].iloc[0], 40)}: one layer narrowed, all others full")
    axes.grid(False)
    beside = figure.add_axes(((_LEFT + inner[0] + 0.15) / width, _BOTTOM / height, 0.15 / width, inner[1] / height))
    bar = figure.colorbar(picture, cax=beside)
    # The logarithm's own labels are formulas, which the style shows as they are written.
    bar.formatter = FuncFormatter(lambda value, _: f"{value:g}")
    bar.update_ticks()
    bar.set_label("KL (nats a token)", color=INK)
    return figure
