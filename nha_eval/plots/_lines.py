"""Cost against length: the drawing that the latency and the memory plot share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ._settings import settings_of
from ._style import Code, length_axis, scaled, value_axis

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


def phase_groups(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """(phase, ", batch 4" or "", rows) for every phase and batch size; the batch is named when there are several."""
    order = [*PHASES, *sorted(set(rows["phase"]) - set(PHASES))]
    batches = rows["batch_size"].drop_duplicates().sort_values().tolist()
    groups = []
    for phase in order:
        for batch in batches:
            same = rows["batch_size"].isna() if pd.isna(batch) else rows["batch_size"] == batch
            part = rows[(rows["phase"] == phase) & same]
            if len(part):
                suffix = f", batch {batch:.0f}" if len(batches) > 1 and pd.notna(batch) else ""
                groups.append((phase, suffix, part))
    return groups


def draw_panel(axes: Axes, panel: Panel, code: Code) -> None:
    """A line a setting with markers by window; bars from `low` to `high` where the panel names these columns."""
    divisor, unit = scaled(panel.rows[panel.column].to_numpy(), panel.units)
    for model, window in settings_of(panel.rows):
        own = panel.rows[(panel.rows["model"] == model) & (panel.rows["window"] == window)]
        own = own.groupby("length", as_index=False).mean(numeric_only=True).sort_values("length")
        x, y = own["length"].to_numpy(), own[panel.column].to_numpy() / divisor
        bars = None
        if panel.low and panel.high:
            ends = own[[panel.low, panel.high]].to_numpy().T / divisor
            bars = np.nan_to_num(np.maximum(np.array([y - ends[0], ends[1] - y]), 0))
        axes.errorbar(
            *(x, y, bars),
            color=code.colour(model),
            linestyle=code.line(model),
            marker=code.marker(window),
            markersize=8 if window == "full" else 5.5,
            elinewidth=1.0,
            linewidth=1.3,
            label=f"{model}|{window}",
        )
    length_axis(axes, panel.rows["length"].tolist())
    value_axis(axes, (panel.rows[panel.column] / divisor).tolist(), log=panel.log)
    axes.set_ylabel(f"{panel.ylabel} ({unit})")


def cost_handles(rows: pd.DataFrame, code: Code) -> list:
    """Legend: the models' lines, then the windows' markers."""
    models = [code.model_handle(model) for model in code.models if model in set(rows["model"])]
    return models + [code.window_handle(window) for window in code.windows if window in set(rows["window"])]
