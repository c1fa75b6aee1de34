"""What every task of RULER hands over, and how many units of its text a length holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

_JUMPS = 6  # by the last slope; then halving, which always ends


@dataclass(frozen=True)
class Prompt:
    """A prompt and what is right: all of `answers`, or any of them, by the task's metric."""

    text: str
    answers: list[str]
    depths: list[float] = field(default_factory=list)  # where each thing asked for begins, in [0, 1] of the units before it
    source: str | None = None  # what several documents share; None: nothing


class Asker(Protocol):
    """One task at one length: draws a prompt with so many units (sentences, words, documents) of text around what is asked."""

    answer_room: int  # tokens of the length that are left to the answer
    fewest: int  # units
    count: int | None  # documents there can be; None: any number

    def build(self, number: int, rng: np.random.Generator, units: int) -> Prompt:
        """Document `number`. What it asks does not depend on `units`, so that the text can be made to fit."""


@dataclass(frozen=True)
class Setting:
    """What a task is made with: its length in tokens of `tokenizer`, and `read`, which gives the data it needs, if any."""

    length: int
    tokenizer: Any
    read: Callable[[], Any]


def most_units(size: Callable[[int], int], budget: int, fewest: int, guess: int) -> int | None:
    """A number of units whose size (tokens) is at most `budget`, and short of it by less than about one unit or a
    thousandth; None where not even `fewest` fit. `guess` is where the search starts; sizes grow with the units, roughly evenly.
    Raises ValueError for a size of 0.

    >>> most_units(lambda units: 7 + 10 * units, 100, 1, 3)
    9
    """
    low, high = None, None
    units = max(fewest, guess)
    smaller = (0, 0)
    for turn in range(64):
        tokens = size(units)
        if tokens < 1:
            raise ValueError("the tokenizer finds no tokens in a whole text, so lengths cannot be counted: give another one")
        slope = (tokens - smaller[1]) / (units - smaller[0]) if units > smaller[0] else tokens / units
        # Two neighbours may be of one size, which says nothing of the next.
        slope = max(slope, tokens / units / 4)
        if tokens <= budget:
            low, smaller = units, (units, tokens)
        else:
            high = units
        step = int((budget - tokens) // slope)
        floor, ceiling = (fewest if low is None else low + 1), (None if high is None else high - 1)
        # Counting a long text takes a good part of a second: the last thousandth is not worth it.
        if (tokens <= budget and (step == 0 or budget - tokens <= budget // 1000)) or (ceiling is not None and floor > ceiling):
            break
        wanted = units + step if turn < _JUMPS or ceiling is None else (floor + ceiling) // 2
        units = max(floor, wanted if ceiling is None else min(ceiling, wanted))
    return low
