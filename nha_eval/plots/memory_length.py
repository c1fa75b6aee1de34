"""Memory against length: the peak of each phase on a linear axis from 0 (weights are part of it), and the cache's
state on a logarithmic one."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._lines import PHASES, Panel, draw_panels, measured, phase_groups
from ._style import BYTES, MEBIBYTES, Code, NothingToDraw

TITLE = "Memory against length"
ALT = (
    "Peak memory of prefill and decoding, and bytes of the cache's state, against length in tokens, a line a model and window."
)
CAPTION = (
    "The peak is that of the whole process on a CPU and of the allocator on a GPU, weights included. The state "
    "is what the cache holds. A cross is where a setting's figures pass full attention's, between the lengths measured."
)


def draw(scores: pd.DataFrame, costs: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """A panel a phase for the peak, one a batch size for the state; NothingToDraw when neither was measured."""
    peak, state = measured(costs, "peak_memory_mb"), measured(costs, "state_bytes")
    if peak.empty and state.empty:
        raise NothingToDraw("no memory to draw: no cell of costs.csv is ok yet")
    code = Code(scores, costs)
    wanted = [
        Panel(f"{PHASES.get(phase, phase)}{suffix}", part, "peak_memory_mb", MEBIBYTES, "peak memory", log=False)
        for phase, suffix, part in phase_groups(peak)
    ]
    # The state after a prefill of some length is the state a decoding step at that length starts from: one line for
    # both.
    one = ["model", "window", "length", "batch_size", "dtype", "device", "hardware", "status"]
    held = state.groupby(one, dropna=False, sort=False, as_index=False)["state_bytes"].max()
    wanted += [
        Panel(f"State kept while decoding{suffix}", part, "state_bytes", BYTES, "state")
        for _, suffix, part in phase_groups(held.assign(phase="state"))
    ]
    return draw_panels(wanted, pd.concat([peak, state]), code, figure, columns)
