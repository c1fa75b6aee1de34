"""Throughput against length: tokens a second, of the whole batch, in prefill and in decoding."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._lines import PHASES, Panel, draw_panels, measured, phase_groups
from ._style import TOKENS, Code, NothingToDraw

TITLE = "Throughput against length"
ALT = "Tokens a second in prefill and in decoding against length in tokens, a line a model and window."
CAPTION = (
    "Tokens a second at the median latency, all sequences of the batch together. Where the figures span less than a factor of "
    "four the axis is linear and starts at 0. A cross is where a setting passes full attention, between the lengths measured."
)


def draw(scores: pd.DataFrame, costs: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """A panel a phase (and batch size); NothingToDraw when no throughput was measured."""
    rows = measured(costs, "tokens_per_s")
    if rows.empty:
        raise NothingToDraw("no throughput to draw: no cell of costs.csv is ok yet")
    code = Code(scores, costs)
    wanted = [
        Panel(f"{PHASES.get(phase, phase)}{suffix}", part, "tokens_per_s", TOKENS, "throughput")
        for phase, suffix, part in phase_groups(rows)
    ]
    return draw_panels(wanted, rows, code, figure, columns)
