"""What a search is given, and the setting that would be best if layers added up.

The search lowers `objective` over settings whose cost is within a limit. Each layer's own loss alone (`alone`) is known before,
from the sweep; the best setting of their sum is a knapsack with one choice a layer, which dynamic programming solves (Sinha and
Zoltners, "The Multiple-Choice Knapsack Problem", Operations Research 27, 1979). It costs no evaluation, and other searches
start from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nha_eval.search.spending import Spending
from nha_eval.search.windows import Windows, order

BINS = 4000  # of the cost; a setting's cost is rounded up by at most a bin a layer


@dataclass(frozen=True)
class Problem:
    """windows: the candidates, narrow to wide, full last. alone[i, window]: the objective with layer i alone at the window,
    less that of the full model. objective may raise OutOfTime.
    """

    windows: tuple[int | None, ...]
    spending: Spending
    alone: dict[tuple[int, int | None], float]
    objective: Callable[[Windows], float]
    keep: Callable[[Windows], None] = lambda windows: None

    @property
    def layers(self) -> list[int]:
        return self.spending.layers

    @property
    def full(self) -> Windows:
        return (None,) * len(self.spending.has_window)

    @cached_property
    def choices(self) -> dict[int, list[int | None]]:
        """Each layer's windows worth their cost, cheap to dear: none costs as much as a wider one."""
        found = {}
        for i in self.layers:
            kept: list[int | None] = []
            for window in sorted(self.windows, key=order, reverse=True):
                if not kept or self.spending.layer(i, window) < self.spending.layer(i, kept[-1]):
                    kept.append(window)
            found[i] = kept[::-1]
        return found

    @property
    def cheapest(self) -> Windows:
        """Each layer at its cheapest window."""
        return tuple(self.choices[i][0] if has else None for i, has in enumerate(self.spending.has_window))

    def fits(self, windows: Windows, limit: float) -> bool:
        """Whether the setting costs at most `limit`."""
        return self.spending.of(windows) <= limit

    def sum_alone(self, windows: Windows) -> float:
        """The sum of the layers' own losses."""
        return sum(self.alone[i, windows[i]] for i in self.layers)


def additive(problem: Problem, limit: float, bins: int = BINS) -> Windows:
    """The setting within `limit` with the least `sum_alone`, but for the rounding of costs to bins.

    Raises ValueError where not even the cheapest setting fits.
    """
    spending = problem.spending
    if not problem.fits(problem.cheapest, limit):
        raise ValueError(f"no setting costs {limit:g} {spending.unit} or less")
    least = {i: spending.layer(i, problem.choices[i][0]) for i in problem.layers}
    room = limit - spending.of(problem.cheapest)
    most = sum(spending.layer(i, problem.choices[i][-1]) - least[i] for i in problem.layers)
    unit = max(room, 1e-12) / bins
    if room >= most:
        return problem.full
    best = np.zeros(bins + 1)
    taken = []
    for i in problem.layers:
        rounded = [int(np.ceil((spending.layer(i, window) - least[i]) / unit - 1e-9)) for window in problem.choices[i]]
        table = np.full((len(rounded), bins + 1), np.inf)
        for row, (bin_cost, window) in enumerate(zip(rounded, problem.choices[i], strict=True)):
            if bin_cost <= bins:
                table[row, bin_cost:] = best[: bins + 1 - bin_cost] + problem.alone[i, window]
        taken.append((rounded, table.argmin(0)))
        best = table.min(0)
    windows, left = list(problem.full), bins
    for i, (rounded, choice) in zip(reversed(problem.layers), reversed(taken), strict=True):
        row = int(choice[left])
        windows[i] = problem.choices[i][row]
        left -= rounded[row]
    return tuple(windows)
