"""Where a setting's cost passes that of full attention: at each length less, more, or not to be told apart, and between which
lengths the figures cross.

Two timings cannot be told apart where the spans between their quartiles overlap; other figures differ wherever they are not
equal. A crossing is found on a straight line in the logarithms of length and figure between two measured lengths, and says no
more than that: somewhere between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, pairwise

import pandas as pd

from ._lines import PHASES, measured
from ._settings import Setting, full_setting, settings_of

LESS, MORE, SAME = "less", "more", "not distinguishable"
# What must be equal of two figures that are compared.
ALIKE = ["length", "batch_size", "dtype", "device", "hardware"]


@dataclass(frozen=True)
class Course:
    """How `setting` goes against `reference` in one column and phase over the lengths that both have."""

    setting: Setting
    reference: Setting
    phase: str
    place: tuple  # batch_size, dtype, device, hardware
    lengths: list[float]
    verdicts: list[str]  # LESS, MORE or SAME, a length each
    crossings: list[tuple[float, float]]  # (length, figure)

    def words(self) -> str:
        """`more up to 512 tokens; not distinguishable at 1,024; less from 2,048 on`."""
        runs = [(verdict, [length for _, length in group]) for verdict, group in self._runs()]
        if len(runs) == 1:
            verdict, lengths = runs[0]
            return f"{verdict} at {_count(lengths[0])}" if len(lengths) == 1 else f"{verdict} at all lengths"
        said = []
        for place, (verdict, lengths) in enumerate(runs):
            first, last = _count(lengths[0]), _count(lengths[-1])
            between = f"at {first}" if len(lengths) == 1 else f"from {first} to {last}"
            where = f"up to {last}" if place == 0 else f"from {first} on" if place == len(runs) - 1 else between
            said.append(f"{verdict} {where}")
        return "; ".join(said)

    def _runs(self):
        return groupby(zip(self.verdicts, self.lengths, strict=True), key=lambda pair: pair[0])


def about(length: float) -> str:
    """An interpolated length in two digits, which is all that it is good for: `about 1,400`."""
    return f"about {float(f'{length:.2g}'):,.0f}"


def courses(costs: pd.DataFrame, column: str, phase: str | None = None) -> list[Course]:
    """Every setting that has full attention to be held against, with figures of both in `column` (of the `phase`)."""
    rows = measured(costs, column)
    rows = rows if phase is None else rows[rows["phase"] == phase]
    settings = settings_of(rows)
    found = []
    for setting in settings:
        reference = full_setting(settings, setting[0])
        if reference is None or reference == setting:
            continue
        sides = [_side(rows, one, column) for one in (setting, reference)]
        both = sides[0].merge(sides[1], on=["phase", *ALIKE], suffixes=("", "_full"))
        for (named, *place), part in both.groupby(["phase", *ALIKE[1:]], dropna=False, sort=False):
            part = part.sort_values("length")
            found.append(_course(setting, reference, named, tuple(place), part, column))
    order = [*PHASES, *(one.phase for one in found)]
    return sorted(found, key=lambda one: (order.index(one.phase), settings.index(one.setting)))


def _side(rows: pd.DataFrame, setting: Setting, column: str) -> pd.DataFrame:
    own = rows[(rows["model"] == setting[0]) & (rows["window"] == setting[1])]
    bounds = ["latency_ms_p25", "latency_ms_p75"] if column == "latency_ms" else []
    return own.groupby(["phase", *ALIKE], dropna=False, as_index=False)[[column, *bounds]].mean()


def _course(setting: Setting, reference: Setting, phase: str, place: tuple, part: pd.DataFrame, column: str) -> Course:
    ours, theirs, lengths = (part[name].tolist() for name in (column, f"{column}_full", "length"))
    verdicts = [LESS if a < b else MORE if a > b else SAME for a, b in zip(ours, theirs, strict=True)]
    if column == "latency_ms":
        low, high = part["latency_ms_p25"], part["latency_ms_p75"]
        # A missing quartile makes every comparison false: then the medians decide.
        overlap = (low <= part["latency_ms_p75_full"]) & (part["latency_ms_p25_full"] <= high)
        verdicts = [SAME if same else verdict for same, verdict in zip(overlap, verdicts, strict=True)]
    gaps = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    crossings = []
    for left, right in pairwise(range(len(gaps))):
        if gaps[left] * gaps[right] < 0:
            share = gaps[left] / (gaps[left] - gaps[right])
            crossings.append(tuple(_between(values[left], values[right], share) for values in (lengths, ours)))
    return Course(setting, reference, phase, place, lengths, verdicts, crossings)


def _between(low: float, high: float, share: float) -> float:
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def _count(length: float) -> str:
    return f"{length:,.0f}"
