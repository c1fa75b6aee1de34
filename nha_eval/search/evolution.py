"""A small evolutionary search under one budget, from settings that other searches found.

Parents are drawn by tournament; a child takes each layer's window from either, then a few layers change, to a window the more
likely the less their own loss says against it. A child beyond the budget is narrowed where the layers' own losses rise least
for what it saves, then widened where they fall most for what is left. Each child is another setting than all before it.
"""

from __future__ import annotations

import numpy as np

from nha_eval.search.problem import Problem
from nha_eval.search.windows import Windows, with_window

POPULATION = 16
TOURNAMENT = 3
MUTATIONS = 2.0  # layers changed, in the mean
TRIES = 50  # at another child, before the space counts as searched


def evolve(
    problem: Problem,
    limit: float,
    start: list[Windows],
    *,
    generations: int,
    seed: int | list[int],
    population: int = POPULATION,
) -> Windows:
    """The best setting within `limit` of `start` (at least one that is within it) and of `generations` of as many children."""
    rng = np.random.default_rng(seed)
    values = {windows: problem.objective(windows) for windows in start if problem.fits(windows, limit)}
    if not values:
        raise ValueError(f"no setting to start from costs {limit:g} {problem.spending.unit} or less")
    seen = set(values)
    for _ in range(generations):
        alive = sorted(values, key=values.get)[:population]
        values = {windows: values[windows] for windows in alive}
        for _ in range(population):
            child = _another(problem, limit, alive, values, seen, rng)
            if child is None:
                return min(values, key=values.get)
            seen.add(child)
            values[child] = problem.objective(child)
    return min(values, key=values.get)


def _another(
    problem: Problem,
    limit: float,
    alive: list[Windows],
    values: dict[Windows, float],
    seen: set[Windows],
    rng: np.random.Generator,
) -> Windows | None:
    """A child that was not there before; None where TRIES found none."""
    for _ in range(TRIES):
        child = repaired(problem, _mutated(problem, _crossed(alive, values, rng), rng), limit)
        if child not in seen:
            return child
    return None


def _crossed(alive: list[Windows], values: dict[Windows, float], rng: np.random.Generator) -> Windows:
    def parent() -> Windows:
        drawn = [alive[int(i)] for i in rng.integers(len(alive), size=TOURNAMENT)]
        return min(drawn, key=values.get)

    sides = rng.integers(2, size=len(alive[0])).tolist()
    return tuple((mine, other)[side] for mine, other, side in zip(parent(), parent(), sides, strict=True))


def _mutated(problem: Problem, windows: Windows, rng: np.random.Generator) -> Windows:
    chosen = np.flatnonzero(rng.random(len(problem.layers)) < MUTATIONS / len(problem.layers))
    for i in (problem.layers[int(place)] for place in chosen):
        losses = np.array([max(0.0, problem.alone[i, window]) for window in problem.choices[i]])
        weights = 1 / (losses + 0.1 * losses.mean() + 1e-9)
        windows = with_window(windows, i, problem.choices[i][int(rng.choice(len(losses), p=weights / weights.sum()))])
    return windows


def repaired(problem: Problem, windows: Windows, limit: float) -> Windows:
    """The setting made to fit `limit`, and what room is left spent, by the layers' own losses alone."""
    spending, alone = problem.spending, problem.alone

    def moves(sign: int, room: float = float("inf")) -> list[tuple[float, int, int | None]]:
        found = []
        for i in problem.layers:
            for window in problem.choices[i]:
                spent = sign * (spending.layer(i, window) - spending.layer(i, windows[i]))
                if 0 < spent <= room:
                    found.append(((alone[i, window] - alone[i, windows[i]]) / spent, i, window))
        return found

    while not problem.fits(windows, limit):
        _, layer, window = min(moves(-1), key=lambda move: move[0])
        windows = with_window(windows, layer, window)
    while wider := [move for move in moves(1, limit - spending.of(windows)) if move[0] < 0]:
        _, layer, window = min(wider, key=lambda move: move[0])
        windows = with_window(windows, layer, window)
    return windows
