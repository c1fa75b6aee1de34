"""Settings as they are usually chosen, each the largest of its family within a budget.

`interleaved`, `first`, `middle`, `last`: k layers at full attention, spread evenly or side by side, the rest at one window.
`guided`: the k full layers chosen one by one, each the one that lowers KL most (the choice of layers by KL divergence is the
idea of arXiv 2512.20569, which measures it after training; here it is measured untrained). `uniform`: one window for all.

Of the first five, the window of the rest is one of the search's candidates; k is then the largest that fits.
"""

from __future__ import annotations

from nha_eval.search.greedy import widen
from nha_eval.search.problem import Problem
from nha_eval.search.windows import Windows

PLACED = ("interleaved", "first", "middle", "last")
FAMILIES = (*PLACED, "guided", "uniform")


def placed(family: str, layers: list[int], k: int) -> list[int]:
    """Which k of `layers` are full. ValueError for another family than those of PLACED."""
    n = len(layers)
    if family == "interleaved":
        return [layers[int((place + 0.5) * n / k)] for place in range(k)]
    if family not in PLACED:
        raise ValueError(f"family {family!r}; wanted one of {', '.join(PLACED)}")
    start = {"first": 0, "middle": (n - k) // 2, "last": n - k}[family]
    return layers[start : start + k]


def with_full(problem: Problem, full: list[int], rest: int) -> Windows:
    """Those layers at full attention, the others that have a window at `rest`."""
    has_window = problem.spending.has_window
    return tuple(None if not has or i in full else rest for i, has in enumerate(has_window))


def most_full(problem: Problem, rest: int, limit: float, family: str = "first") -> int:
    """The most layers that can be full within `limit` with the others at `rest`; 0 where not even one can."""
    layers = problem.layers
    fitting = (k for k in range(len(layers), 0, -1) if problem.fits(with_full(problem, placed(family, layers, k), rest), limit))
    return next(fitting, 0)


def of_family(problem: Problem, family: str, limit: float) -> dict[int, Windows]:
    """The family's largest setting within `limit` for each window of the rest with which a layer can be full."""
    found = {}
    for rest in (window for window in problem.windows if window is not None):
        if k := most_full(problem, rest, limit, family):
            found[rest] = with_full(problem, placed(family, problem.layers, k), rest)
    return found


def guided(problem: Problem, rest: int, limit: float) -> Windows:
    """Full layers chosen one by one by what they lower the objective for their cost, the others at `rest`."""
    chosen = Problem((rest, None), problem.spending, problem.alone, problem.objective, problem.keep)
    (_, windows), *_ = widen(chosen, [limit], with_full(problem, [], rest))
    return windows


def uniform(problem: Problem, limit: float, longest: int) -> Windows | None:
    """The widest single window of all layers within `limit`: any number of tokens up to `longest` where the budget is of state,
    else one of the candidates. None where there is none.
    """
    candidates = [window for window in problem.windows if window is not None]
    if problem.spending.unit == "bytes":
        # A wider window never takes less.
        least, most = min(candidates) - 1, longest
        while least < most:
            middle = (least + most + 1) // 2
            if problem.fits(with_full(problem, [], middle), limit):
                least = middle
            else:
                most = middle - 1
        return with_full(problem, [], least) if least >= min(candidates) else None
    fitting = [window for window in candidates if problem.fits(with_full(problem, [], window), limit)]
    return with_full(problem, [], max(fitting)) if fitting else None
