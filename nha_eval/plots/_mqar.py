"""What the plots of MQAR share: the rows they draw, a curve's look, and which setting stands for a mixer.

A setting is a model of the sweep at its own window. Where several could stand for a mixer, the selection split decides, so that
what is drawn, the test split, has chosen nothing.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._frames import clean_text
from ._style import INK, LINES, MARKERS, PALETTE, NothingToDraw, finish, length_axis, panels, score_axis
from ._told import tell

SETTING = ["name", "variant", "d_model", "heads", "window", "slots"]
SELECTED = "selection_accuracy"
FULL = "transformer++"
# In which they take their colours, so that these are the same in every picture of a sweep; then others as they come.
ORDER = (FULL, "nha", "gsa", "swa", "gla", "gated-deltanet", "mamba2", "nha-2026", "gsa-h", "gdn-h", "nha-h")
# Of a variant, what makes it another operator; the rest are sizes, which a mixer's curve goes through.
ABLATIONS = ("conv_size", "fusion", "overlap", "empty_slots")
NOTHING = "no MQAR to draw: mqar.csv holds no tested accuracy; it comes with `train` of an MQAR spec"


def named(mqar: pd.DataFrame) -> pd.DataFrame:
    """The rows with figures, at the window they were trained at, with `name`: the mixer and what of its operator is not as
    published."""
    rows = mqar[(mqar["status"] == "ok") & mqar["accuracy"].notna() & (mqar["window"] == mqar["trained_window"])]
    names = rows["mixer"] + rows["variant"].map(lambda text: "".join(f", {part}" for part in _parts(text)[0]))
    # Attention has no slots: as NaN its rows would fall out of every group.
    return rows.assign(name=names, slots=rows["slots"].fillna(0))


def _parts(variant: str) -> tuple[list[str], list[str]]:
    """(ablations of the operator, sizes) of a variant, as `key=value`."""
    parts = variant.split()
    ablations = [part for part in parts if part.partition("=")[0] in ABLATIONS]
    return ablations, [part for part in parts if part not in ablations]


def tested(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """A row a group of `by`: accuracy (mean over seeds), low, high (least and greatest of a seed). Kinds of a seed that fall
    into one group are averaged first. Raises NothingToDraw where there are none.
    """
    rows = rows[rows["split"] == "test"]
    if rows.empty:
        raise NothingToDraw(NOTHING)
    seeds = rows.groupby([*by, "seed"], as_index=False, sort=False)["accuracy"].mean()
    found = seeds.groupby(by, as_index=False, sort=False)["accuracy"].agg(["mean", "min", "max"])
    return found.rename(columns={"mean": "accuracy", "min": "low", "max": "high"})


def best_on_selection(rows: pd.DataFrame, within: list[str]) -> pd.DataFrame:
    """The settings with the highest mean accuracy on the selection split, one for each group of `within`, as rows of `within`,
    SETTING and SELECTED, that mean. Of the seeds that are tested: those that chose the rate have tried others too.
    """
    reported = rows[rows["split"] == "test"][[*SETTING, "seed", "rate"]].drop_duplicates()
    chosen = rows[rows["split"] == "selection"].merge(reported, on=[*SETTING, "seed", "rate"])
    keys = list(dict.fromkeys([*within, *SETTING]))
    means = chosen.groupby(keys, as_index=False, sort=False)["accuracy"].mean().rename(columns={"accuracy": SELECTED})
    return means.loc[means.groupby(within, sort=False)[SELECTED].idxmax(), [*keys, SELECTED]]


class Look:
    """Colour, line and marker a mixer, by its place; full attention in ink."""

    def __init__(self, names: list[str]) -> None:
        self.names = sorted(dict.fromkeys(names), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
        others = [*ORDER[1:], *(name for name in self.names if name not in ORDER)]
        self._place = {name: index for index, name in enumerate(others)}

    def of(self, name: str) -> dict:
        if name == FULL:
            return {"color": INK, "linestyle": "-", "marker": "*"}
        place = self._place[name]
        colour, line, marker = PALETTE[place % len(PALETTE)], LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
        return {"color": colour, "linestyle": line, "marker": marker}

    def handles(self, labels: dict[str, str]) -> list[Line2D]:
        """The legend of the names in `labels`."""
        return [Line2D([], [], label=clean_text(labels[name], 60), **self.of(name)) for name in self.names if name in labels]


def draw_curve(axes: Axes, rows: pd.DataFrame, column: str, look: Look, name: str, through: pd.Series | None = None) -> None:
    """Mean accuracy against `column`, bars from the worst to the best seed; through: which rows the line joins (None: all)."""
    through = rows[column].notna() if through is None else through
    rows, joined = rows.sort_values(column), rows[through].sort_values(column)
    bars = [rows["accuracy"] - rows["low"], rows["high"] - rows["accuracy"]]
    style = look.of(name)
    line = style.pop("linestyle")
    axes.plot(joined[column], joined["accuracy"], color=style["color"], linestyle=line, linewidth=1.3)
    drawn = axes.errorbar(
        rows[column], rows["accuracy"], bars, **style, linestyle="none", markersize=5.5, elinewidth=1.0, label=name
    )  # fmt: skip
    spans = zip(rows[column], rows["accuracy"], rows["low"], rows["high"], strict=True)
    tell(drawn[0], [f"{name}\n{x:,.4g}: {y:.3f}, seeds {low:.3f} to {high:.3f}" for x, y, low, high in spans])


def against(mqar: pd.DataFrame, column: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """(rows of `tested` by name and `column`, of the setting that stands for each name; each name's words for the legend)."""
    rows = named(mqar)
    if rows[rows["split"] == "test"].empty:
        raise NothingToDraw(NOTHING)
    best = best_on_selection(rows, ["name"])
    own = rows.merge(best, on=SETTING)
    return tested(own, ["name", column]), {row.name: _words(row) for row in best.itertuples(index=False)}


def _words(row) -> str:
    found = [row.name, f"d={row.d_model:.0f}"]
    found += [f"w={row.window}"] if row.window not in ("none", "full") else []
    found += [f"slots={row.slots:.0f}"] if row.slots else []
    return " ".join([*found, *_parts(row.variant)[1]])


def draw_against(mqar: pd.DataFrame, column: str, label: str, figure: Figure | None, columns: int | None) -> Figure:
    """One panel: accuracy against a column, a curve a mixer. NothingToDraw where nothing was tested."""
    points, words = against(mqar, column)
    figure, (axes,) = panels(1, figure, columns)
    look = Look(points["name"].tolist())
    for name in look.names:
        draw_curve(axes, points[points["name"] == name], column, look, name)
    length_axis(axes, points[column].tolist())
    score_axis(axes, 1.0, "accuracy")
    axes.set_xlabel(label)
    finish(figure, look.handles(words))
    return figure
