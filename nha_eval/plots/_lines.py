"""Cost against length: the drawing that the latency and the memory plot share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._frames import clean_text
from ._settings import setting_label, settings_of
from ._style import INK, Code, finish, length_axis, panels, scaled, title, value_axis
from ._told import tell

CROSS = {"color": INK, "marker": "x", "markersize": 6.5, "linestyle": "none"}
_PLACE = ["device", "hardware", "dtype"]
PHASES = {"prefill": "Prefill", "decode": "Decoding one token", "train": "Training step"}


@dataclass(frozen=True)
class Panel:
    """One panel: its title, its rows (a length a row and setting), the column drawn, its units and whether the axis
    is logarithmic."""

    title: str
    rows: pd.DataFrame
    column: str
    units: tuple[tuple[float, str], ...]
    ylabel: str
    log: bool = True
    low: str | None = None
    high: str | None = None


def measured(costs: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows of costs.csv that are `ok` and have a positive figure in `column` and a length."""
    return costs[(costs["status"] == "ok") & (costs[column] > 0) & (costs["length"] > 0)]


def places(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(", NVIDIA H200, bfloat16" or "", rows) for all that was measured on one device and in one dtype, which alone may be
    compared; what differs is named."""
    keys = rows[_PLACE].drop_duplicates()
    telling = [column for column in ("hardware", "dtype") if keys[column].nunique() > 1]
    if "hardware" not in telling and keys["device"].nunique() > 1:
        telling = ["device", *telling]
    found = []
    for key in keys.itertuples(index=False):
        part = rows[(rows[_PLACE] == list(key)).all(axis=1)]
        found.append(("".join(f", {clean_text(getattr(key, column), 40) or 'not known'}" for column in telling), part))
    return found


def phase_groups(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(phase, ", batch 4" or "", rows) for every phase, batch size, device and dtype; what there are several of is named."""
    order = [*PHASES, *sorted(set(rows["phase"]) - set(PHASES))]
    batches = rows["batch_size"].drop_duplicates().sort_values().tolist()
    groups = []
    for phase in order:
        for batch in batches:
            for where, placed in places(rows):
                same = placed["batch_size"].isna() if pd.isna(batch) else placed["batch_size"] == batch
                part = placed[(placed["phase"] == phase) & same]
                if len(part):
                    suffix = f", batch {batch:.0f}" if len(batches) > 1 and pd.notna(batch) else ""
                    groups.append((phase, suffix + where, part))
    return groups


def draw_panels(wanted: list[Panel], rows: pd.DataFrame, code: Code, figure: Figure | None, columns: int | None) -> Figure:
    """The panels side by side with their titles, and a legend of the settings of all rows."""
    figure, all_axes = panels(len(wanted), figure, columns)
    for axes, panel in zip(all_axes, wanted, strict=True):
        draw_panel(axes, panel, code)
        title(axes, panel.title)
    finish(figure, cost_handles(rows, code, figure))
    return figure


def draw_panel(axes: Axes, panel: Panel, code: Code) -> None:
    """A line a setting with markers by window; bars from `low` to `high` where the panel names these columns; a cross where a
    setting's figures pass full attention's."""
    from ._crossings import about, courses

    divisor, unit = scaled(panel.rows[panel.column].to_numpy(), panel.units)
    for model, window in settings_of(panel.rows):
        own = panel.rows[(panel.rows["model"] == model) & (panel.rows["window"] == window)]
        own = own.groupby("length", as_index=False).mean(numeric_only=True).sort_values("length")
        x, y = own["length"].to_numpy(), own[panel.column].to_numpy() / divisor
        bars = None
        if panel.low and panel.high:
            ends = own[[panel.low, panel.high]].to_numpy().T / divisor
            bars = np.nan_to_num(np.maximum(np.array([y - ends[0], ends[1] - y]), 0))
        drawn = axes.errorbar(
            *(x, y, bars),
            color=code.colour(model),
            linestyle=code.line(model),
            marker=code.marker(window),
            markersize=8 if window == "full" else 5.5,
            elinewidth=1.0,
            linewidth=1.3,
            label=f"{model}|{window}",
        )
        tell(drawn[0], _words(setting_label((model, window)), own, panel, divisor, unit))
    for course in courses(panel.rows, panel.column):
        for length, figure in course.crossings:
            (mark,) = axes.plot(length, figure / divisor, **CROSS, label="_crossing")
            tell(mark, [f"{setting_label(course.setting)}\ncrosses full attention at {about(length)} tokens"])
    length_axis(axes, panel.rows["length"].tolist())
    value_axis(axes, (panel.rows[panel.column] / divisor).tolist(), log=panel.log)
    axes.set_ylabel(f"{panel.ylabel} ({unit})")


def _words(name: str, own: pd.DataFrame, panel: Panel, divisor: float, unit: str) -> list[str]:
    told = []
    for row in own.itertuples():
        text = f"{name}\n{row.length:,.0f} tokens: {getattr(row, panel.column) / divisor:,.4g} {unit}"
        if panel.low and panel.high and pd.notna(getattr(row, panel.low)):
            text += f" (quartiles {getattr(row, panel.low) / divisor:,.4g} to {getattr(row, panel.high) / divisor:,.4g})"
        told.append(text)
    return told


def cost_handles(rows: pd.DataFrame, code: Code, figure: Figure | None = None) -> list:
    """Legend: the models' lines, then the windows' markers, and what crossings are where the figure has any."""
    models = [code.model_handle(model) for model in code.models if model in set(rows["model"])]
    found = models + [code.window_handle(window) for window in code.windows if window in set(rows["window"])]
    if figure is not None and any(line.get_label() == "_crossing" for axes in figure.axes for line in axes.get_lines()):
        found.append(Line2D([], [], **CROSS, label="crosses full attention"))
    return found
