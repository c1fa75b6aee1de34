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
    sides = _sides(rows, column)
    found = []
    for setting in settings:
        reference = full_setting(settings, setting[0])
        if reference is None or reference == setting:
            continue
        for key, ours in sides[setting].items():
            theirs = sides[reference].get(key, {})
            lengths = sorted(length for length in ours if length in theirs)
            if lengths:
                pairs = [(ours[length], theirs[length]) for length in lengths]
                found.append(_course(setting, reference, key[0], key[1:], lengths, pairs))
    order = [*PHASES, *(one.phase for one in found)]
    return sorted(found, key=lambda one: (order.index(one.phase), settings.index(one.setting)))


def _sides(rows: pd.DataFrame, column: str) -> dict[Setting, dict[tuple, dict[float, tuple[float, float, float]]]]:
    """Setting -> (phase, place) -> length -> (figure, from, to); the latter two are the quartiles of a latency, else NaN."""
    bounds = ["latency_ms_p25", "latency_ms_p75"] if column == "latency_ms" else []
    place = ["batch_size", "dtype", "device", "hardware"]
    means = rows.groupby(["model", "window", "phase", *place, "length"], dropna=False, sort=False)[[column, *bounds]].mean()
    found: dict[Setting, dict] = {}
    for (model, window, *key, length), figures in zip(means.index, means.itertuples(index=False), strict=True):
        # As a key a missing number must equal another.
        key = tuple(None if pd.isna(one) else one for one in key)
        figure, *span = figures
        found.setdefault((model, window), {}).setdefault(key, {})[length] = (figure, *(span or (math.nan, math.nan)))
    return found


def _course(setting: Setting, reference: Setting, phase: str, place: tuple, lengths: list[float], pairs: list) -> Course:
    # A missing quartile makes every comparison false: then the medians decide.
    same = [a == b or (low <= b_high and b_low <= high) for (a, low, high), (b, b_low, b_high) in pairs]
    figures = [(a, b) for (a, *_), (b, *_) in pairs]
    verdicts = [SAME if alike else LESS if a < b else MORE for alike, (a, b) in zip(same, figures, strict=True)]
    gaps = [math.log(a / b) for a, b in figures]
    crossings = []
    for left, right in pairwise(range(len(gaps))):
        if gaps[left] * gaps[right] < 0:
            share = gaps[left] / (gaps[left] - gaps[right])
            ours = [a for a, _ in figures]
            crossings.append(tuple(_between(values[left], values[right], share) for values in (lengths, ours)))
    return Course(setting, reference, phase, place, lengths, verdicts, crossings)


def _between(low: float, high: float, share: float) -> float:
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def _count(length: float) -> str:
    return f"{length:,.0f}"
