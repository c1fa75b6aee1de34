"""How much of attention goes to the slots in every head of every layer, a panel a setting.

Drawn from telemetry.csv; all tasks and lengths of a setting count together. One colour in more or less ink, so that it reads
the same with any colour vision and in print.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ._settings import setting_label, settings_of
from ._shares import by_head
from ._style import PALETTE, NothingToDraw, finish, panels, title
from ._told import tell

TITLE = "Attention on the slots, head by head"
ALT = "The share of the softmax on the slots in each query head, a panel a model and window, layers down, heads across."
CAPTION = (
    "Each square is a query head of a layer; the darker, the more of its softmax goes to the slots. Layers without a square "
    "have no slots. Queries before the slots hold anything are not counted."
)
TABLES = ("telemetry",)
AT_MOST = 9  # panels
_GAP = 0.08  # between squares


def draw(telemetry: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """A panel a setting, the first of them where there are many; NothingToDraw when the run has no telemetry."""
    rows = by_head(telemetry)
    if rows.empty:
        raise NothingToDraw("no share of the slots to draw: telemetry.csv holds none; it comes with `eval --telemetry`")
    settings = settings_of(rows)[:AT_MOST]
    figure, all_axes = panels(len(settings), figure, columns)
    for axes, (model, window) in zip(all_axes, settings, strict=True):
        _draw(axes, rows[(rows["model"] == model) & (rows["window"] == window)], setting_label((model, window)))
    finish(figure, [_handle(share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)])
    return figure


def _ink(share: float) -> tuple[float, float, float, float]:
    # Never quite clear, so that a head that leaves the slots alone is still there to see.
    return to_rgba(PALETTE[0], 0.06 + 0.94 * min(1.0, max(0.0, share)))


def _draw(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    side = 1 - 2 * _GAP
    squares = [Rectangle((row.head - side / 2, row.layer - side / 2), side, side) for row in rows.itertuples()]
    drawn = PatchCollection(squares, facecolors=[_ink(share) for share in rows["share"]], linewidths=0)
    axes.add_collection(drawn)
    tell(drawn, [f"{name}\nlayer {row.layer:.0f}, head {row.head:.0f}: {row.share:.3f}" for row in rows.itertuples()])
    axes.set_xlim(-0.5, rows["head"].max() + 0.5)
    axes.set_ylim(rows["layer"].max() + 0.5, -0.5)
    axes.grid(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("query head")
    axes.set_ylabel("layer")
    title(axes, name)


def _handle(share: float) -> Line2D:
    return Line2D(
        [], [], color=_ink(share), marker="s", markersize=8, markeredgewidth=0, linestyle="none", label=f"{share:.2f}"
    )
