"""What the plots of MQAR share: the rows they draw, a curve's look, and which setting stands for a mixer.

A setting is a model of the sweep at its own window. Where several could stand for a mixer, the selection split decides, so that
what is drawn, the test split, has chosen nothing.
"""

from __future__ import annotations

import re
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._frames import clean_text
from ._style import INK, LINES, MARKERS, MIXERS, PALETTE, NothingToDraw, finish, length_axis, panels, score_axis
from ._told import tell

SETTING = ["name", "variant", "d_model", "heads", "window", "slots"]
SELECTED = "selection_accuracy"
FULL = "transformer++"
# In the legend; then others as they come.
ORDER = (FULL, "nha", "gsa", "swa", "gla", "gated-deltanet", "mamba2", "nha-2026", "gsa-h", "gdn-h", "nha-h")
# Of a variant, what makes it another operator; the rest are sizes, which a mixer's curve goes through.
ABLATIONS = ("conv_size", "fusion", "overlap", "empty_slots")
# A mixer's hybrid or later form, which has its colour.
FORM_OF = {"nha-2026": "nha", "nha-h": "nha", "gsa-h": "gsa", "gdn-h": "gated-deltanet"}
MOST_FORMS = 8
NOTHING = "no MQAR to draw: mqar.csv holds no tested accuracy; it comes with `train` of an MQAR spec"


def named(mqar: pd.DataFrame) -> pd.DataFrame:
    """The rows with figures, at the window they were trained at, with `name`: the mixer and what of its operator is not as
    published."""
    rows = mqar[(mqar["status"] == "ok") & mqar["accuracy"].notna() & (mqar["window"] == mqar["trained_window"])]
    names = rows["mixer"] + rows["variant"].map(lambda text: "".join(f", {part}" for part in _parts(text)[0]))
    # Attention has no slots: as NaN its rows would fall out of every group.
    return rows.assign(name=names, slots=rows["slots"].fillna(0))


def _mixer_of(name: str) -> tuple[str, str]:
    """("gsa", "-h, conv_size=4") of "gsa-h, conv_size=4": the mixer, and what its form is beyond that."""
    mixer = re.split("[ ,]", name, maxsplit=1)[0]
    own = FORM_OF.get(mixer, mixer)
    return own, mixer[mixer.rfind("-") :] * (own != mixer) + name[len(mixer) :]


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
    """A colour a mixer, a marker and a line for what is other than published in it, the same for every mixer; full attention in
    ink. Of a mixer with more forms than can be told apart by these alone, each form has its own colour."""

    def __init__(self, names: list[str]) -> None:
        self.names = sorted(dict.fromkeys(names), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
        parts = {name: _mixer_of(name) for name in self.names if name != FULL}
        mixers = [mixer for mixer, _ in parts.values()]
        if max(map(mixers.count, mixers), default=0) > MOST_FORMS:
            looks = {name: (PALETTE[place % len(PALETTE)], place) for place, name in enumerate(parts)}
        else:
            others = [mixer for mixer in dict.fromkeys(mixers) if mixer not in MIXERS]
            colours = {**dict(zip(others, cycle(sorted(PALETTE, key=[*MIXERS.values()].count)))), **MIXERS}
            forms = list(dict.fromkeys(["", *(form for _, form in parts.values())]))
            looks = {name: (colours[mixer], forms.index(form)) for name, (mixer, form) in parts.items()}
        self._looks = {
            name: {"color": colour, "linestyle": LINES[form % len(LINES)], "marker": MARKERS[form % len(MARKERS)]}
            for name, (colour, form) in looks.items()
        }

    def of(self, name: str) -> dict:
        return {"color": INK, "linestyle": "-", "marker": "*"} if name == FULL else {**self._looks[name]}

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
