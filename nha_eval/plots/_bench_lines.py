"""What the pictures of `bench op` and `bench model` share: a look a name, a marker a window, lines against length."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nha_eval.plots import render, write_bytes

from ._frames import clean_text, window_order
from ._settings import window_label
from ._style import LINES, MARKERS, MUTED, PALETTE

Looks = dict[str, tuple[str, object]]


def typed(table: pd.DataFrame, text: Iterable[str], numbers: Iterable[str]) -> pd.DataFrame:
    """Those columns of a table that was read as text; what is no number is NaN."""
    rows = pd.DataFrame({name: table[name].map(clean_text) for name in text})
    for name in numbers:
        rows[name] = pd.to_numeric(table[name], errors="coerce")
    return rows


def looks_of(names: Iterable[str], known: Looks) -> Looks:
    """Colour and line style by name: the known ones, and for the others colours that none of these has."""
    names = dict.fromkeys(names)
    others = [name for name in names if name not in known]
    taken = {known[name][0] for name in names if name in known}
    free = [colour for colour in dict.fromkeys((PALETTE[4], *PALETTE)) if colour not in taken] or [PALETTE[4]]
    looks = ((free[index % len(free)], LINES[index // len(free) % len(LINES)]) for index in range(len(others)))
    return {**known, **dict(zip(others, looks, strict=True))}


def markers_of(windows: Iterable[str]) -> dict[str, str]:
    """A marker for each window, ascending."""
    ordered = sorted(set(windows), key=window_order)
    numbered = [window for window in ordered if window not in ("full", "none")]
    known = {window: MARKERS[index % len(MARKERS)] for index, window in enumerate(numbered)}
    return {window: {"full": "*", "none": "h"}.get(window) or known[window] for window in ordered}


def handles(names: Iterable[str], looks: Looks, markers: dict[str, str]) -> list[Line2D]:
    """Legend: the lines of `names`, then the windows' markers."""
    lines = [Line2D([], [], color=looks[name][0], linestyle=looks[name][1], label=name) for name in names]
    return lines + [
        Line2D([], [], color=MUTED, marker=marker, linestyle="none", label=window_label(window))
        for window, marker in markers.items()
    ]


def draw_lines(
    axes: Axes,
    rows: pd.DataFrame,
    name: str,
    column: str,
    looks: Looks,
    markers: dict[str, str],
    divisor: float = 1.0,
    quartiles: bool = False,
) -> None:
    """A line for each value of the column `name` and each window, over `length`; `quartiles`: bars to those of `column`.
    The names that come first among the looks are drawn last, over the others.
    """
    order = list(looks)
    for called in sorted(set(rows[name]), key=order.index, reverse=True):
        for window in sorted(set(rows.loc[rows[name] == called, "window"]), key=window_order):
            own = rows[(rows[name] == called) & (rows["window"] == window)].sort_values("length")
            x, y = own["length"].to_numpy(), own[column].to_numpy() / divisor
            bars = None
            if quartiles:
                ends = own[[f"{column}_p25", f"{column}_p75"]].to_numpy().T / divisor
                bars = np.nan_to_num(np.maximum(np.array([y - ends[0], ends[1] - y]), 0))
            axes.errorbar(
                *(x, y, bars),
                color=looks[called][0],
                linestyle=looks[called][1],
                marker=markers[window],
                markersize={"full": 8}.get(window, 4.5),
                elinewidth=1.0,
                linewidth=2.0 if called == "nha" else 1.3,
                label=f"{called}|{window}",
            )


def reach(rows: pd.DataFrame, column: str) -> list[float]:
    """What an axis of `column` has to hold: its values, and the ends of their bars where it has quartiles."""
    ends = [name for name in (column, f"{column}_p25", f"{column}_p75") if name in rows]
    return [value for value in rows[ends].to_numpy(float).ravel().tolist() if np.isfinite(value)]


def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """The figure as SVG and PNG in the folder."""
    written = []
    for suffix in ("svg", "png"):
        path = folder / f"{name}.{suffix}"
        write_bytes(path, render(figure, suffix))
        written.append(path)
    return written
