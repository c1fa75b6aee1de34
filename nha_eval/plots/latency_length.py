"""Latency against length: the whole prefill, and one decoded token at that context, medians with quartiles on
logarithmic axes."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._lines import PHASES, Panel, draw_panels, measured, phase_groups
from ._style import MILLISECONDS, Code, NothingToDraw

TITLE = "Latency against length"
ALT = (
    "Median latency of prefill and of decoding one token against length in tokens, a line a model and window, "
    "bars from quartile to quartile."
)
CAPTION = (
    "Medians with bars from the first to the third quartile. Where the figures span less than a factor of four "
    "the axis is linear and starts at 0. A cross is where a setting's medians pass full "
    "attention's, between the lengths measured."
)


def draw(scores: pd.DataFrame, costs: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """A panel a phase (and batch size); NothingToDraw when no latency was measured."""
    rows = measured(costs, "latency_ms")
    if rows.empty:
        raise NothingToDraw("no latency to draw: no cell of costs.csv is ok yet")
    code = Code(scores, costs)
    wanted = [
        Panel(
            f"{PHASES.get(phase, phase)}{suffix}",
            part,
            "latency_ms",
            MILLISECONDS,
            "median latency",
            low="latency_ms_p25",
            high="latency_ms_p75",
        )
        for phase, suffix, part in phase_groups(rows)
    ]
    return draw_panels(wanted, rows, code, figure, columns)
