"""What a model is compared with, and from which length on it is faster: what the table says and the picture marks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BASE = "transformer++"  # what all others are compared with; where it is not, the first model with full windows


def base_of(windows: Iterable[tuple[str, str]]) -> str | None:
    """Of (model, window) pairs, the model that others are compared with; None where none has full windows."""
    full = [model for model, window in windows if window == "full"]
    return BASE if BASE in full else next(iter(full), None)


@dataclass(frozen=True)
class Crossover:
    """`length` in tokens; `measured` says whether that is the shortest length measured, at which it was faster already."""

    length: float
    measured: bool

    def __str__(self) -> str:
        return f"<= {self.length:,.0f}" if self.measured else f"~{self.length:,.0f}"


def crossover(own: Mapping[int, float], base: Mapping[int, float]) -> Crossover | None:
    """From where `own` stays below `base`, both latencies by length, at the lengths that both have: where the lines between
    measured points cross, length and latency both on logarithmic scales. None where `own` is no faster at the longest.
    """
    lengths = sorted(set(own) & set(base))
    if not lengths or own[lengths[-1]] >= base[lengths[-1]]:
        return None
    after = lengths[-1]
    for before in reversed(lengths[:-1]):
        if own[before] >= base[before]:
            slower, faster = (math.log(own[at] / base[at]) for at in (before, after))
            share = slower / (slower - faster)
            return Crossover(math.exp(math.log(before) + share * math.log(after / before)), False)
        after = before
    return Crossover(after, True)
