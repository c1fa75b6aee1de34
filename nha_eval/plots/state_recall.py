"""MQAR: accuracy against the bytes of a sequence's state, a panel a kind of sequence, a curve a mixer.

Each point is a setting at the learning rate chosen for it. Of settings of one mixer whose states are of one size, the one best
on the selection split is drawn; the curve joins those that do better there than every smaller state of the mixer, since a state
can be shared out among slots and window well or badly.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from ._mqar import NOTHING, SELECTED, SETTING, Look, best_on_selection, draw_curve, named, tested
from ._style import BYTES, NothingToDraw, finish, panels, scaled, score_axis, title, value_axis

TITLE = "Recall against state"
ALT = "MQAR accuracy against the bytes of state of a sequence, a curve a mixer, a panel a length and number of pairs."
CAPTION = (
    "Multi-query associative recall on the test split, at the learning rate chosen on the selection split. The state is that "
    "of one sequence at the task's longest length. Means over seeds, bars from the worst seed to the best. A line joins the "
    "settings that do better on the selection split than any smaller state of their mixer. Up and to the left is better."
)
TABLES = ("mqar",)
_KIND = ["task", "length", "pairs"]


def draw(mqar: pd.DataFrame, figure: Figure | None = None, columns: int | None = None) -> Figure:
    """Kinds of sequences in panels; NothingToDraw where nothing was tested."""
    rows = named(mqar)
    rows = rows[rows["state_bytes"] > 0]
    if rows[rows["split"] == "test"].empty:
        raise NothingToDraw(NOTHING)
    where = [*_KIND, "state_bytes"]
    best = best_on_selection(rows, [*where, "name"])
    points = tested(rows.merge(best, on=[*where, *SETTING]), [*where, "name", SELECTED])
    kinds = points[_KIND].drop_duplicates().sort_values(["length", "pairs"]).itertuples(index=False)
    kinds = list(kinds)
    figure, all_axes = panels(len(kinds), figure, columns)
    look = Look(points["name"].tolist())
    divisor, unit = scaled(points["state_bytes"].to_numpy(), BYTES)
    points = points.assign(state=points["state_bytes"] / divisor)
    for axes, kind in zip(all_axes, kinds, strict=True):
        own = points[(points[_KIND] == list(kind)).all(axis=1)]
        for name in look.names:
            if name in set(own["name"]):
                curve = own[own["name"] == name].sort_values("state")
                before = curve[SELECTED].cummax().shift()
                draw_curve(axes, curve, "state", look, name, through=before.isna() | (curve[SELECTED] > before))
        value_axis(axes, own["state"].tolist(), which="x", zero=False)
        score_axis(axes, 1.0, "accuracy")
        axes.set_xlabel(f"state of a sequence ({unit})")
        title(axes, f"{kind.task}: {kind.length:,.0f} tokens, {kind.pairs:,.0f} pairs")
    finish(figure, look.handles({name: name for name in look.names}))
    return figure
