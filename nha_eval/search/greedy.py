"""Greedy search: the move that changes the objective best for what it saves or spends, again and again.

A move gives one layer another window. Its worth is estimated before it is evaluated: by what it was worth at an earlier
setting, or at first by the layers' own losses; only the move that looks best is evaluated, until one that is evaluated looks
best (the lazy evaluation of Minoux, "Accelerated Greedy Algorithms", 1978; exact where a move's worth only falls as others are
made, which holds for KL only roughly).

- `narrow`: from all full, down through each budget in turn.
- `widen`: from a cheap setting, up while a move fits.
- `polish`: what room is left is spent, then pairs of moves, one narrower and one wider, are tried until none helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from nha_eval.search.problem import Problem
from nha_eval.search.windows import Windows, with_window

Move = tuple[int, int | None]


@dataclass
class Walk:
    """A place in the search: a setting, its objective, and what moves from it are thought to be worth (change of the
    objective)."""

    problem: Problem
    windows: Windows
    value: float
    _worth: dict[tuple[int, int | None, int | None], float] = field(default_factory=dict)

    def estimate(self, move: Move) -> float:
        """Change of the objective, as last seen with the layer at the window it has, else by the layers' own losses."""
        layer, window = move
        now = self.windows[layer]
        alone = self.problem.alone
        return self._worth.get((layer, now, window), alone[layer, window] - alone[layer, now])

    def evaluate(self, move: Move) -> float:
        """Change of the objective, evaluated."""
        worth = self.problem.objective(with_window(self.windows, *move)) - self.value
        self._worth[move[0], self.windows[move[0]], move[1]] = worth
        return worth

    def spends(self, move: Move) -> float:
        """What the move adds to the cost."""
        layer, window = move
        return self.problem.spending.layer(layer, window) - self.problem.spending.layer(layer, self.windows[layer])

    def best(self, moves: Iterable[Move]) -> tuple[Move, float] | None:
        """The move with the least change of the objective for each unit of cost moved, and that change; None without moves."""
        seen: dict[Move, float] = {}
        moves = list(moves)
        while moves:
            move = min(moves, key=lambda each: seen.get(each, self.estimate(each)) / abs(self.spends(each)))
            if move in seen:
                return move, seen[move]
            seen[move] = self.evaluate(move)
        return None

    def go(self, move: Move, change: float) -> None:
        """Make the move."""
        self.windows, self.value = with_window(self.windows, *move), self.value + change
        self.problem.keep(self.windows)

    def narrower(self) -> list[Move]:
        """Moves to cheaper windows."""
        return [(i, w) for i in self.problem.layers for w in self.problem.choices[i] if self.spends((i, w)) < 0]

    def wider(self, limit: float) -> list[Move]:
        """Moves to dearer windows that cost at most `limit` altogether."""
        room = limit - self.problem.spending.of(self.windows)
        return [(i, w) for i in self.problem.layers for w in self.problem.choices[i] if 0 < self.spends((i, w)) <= room]


def narrow(problem: Problem, limits: list[float]) -> Iterator[tuple[float, Windows]]:
    """(limit, the first setting within it) for each limit, largest first."""
    walk = Walk(problem, problem.full, problem.objective(problem.full))
    for limit in sorted(limits, reverse=True):
        while not problem.fits(walk.windows, limit):
            found = walk.best(walk.narrower())
            if found is None:
                return
            walk.go(*found)
        yield limit, walk.windows


def widen(problem: Problem, limits: list[float], start: Windows | None = None) -> Iterator[tuple[float, Windows]]:
    """(limit, the last setting within it) for each limit, smallest first, from `start` (default: the cheapest) up."""
    start = problem.cheapest if start is None else start
    walk = Walk(problem, start, problem.objective(start))
    for limit in sorted(limits):
        _spend(walk, limit)
        yield limit, walk.windows


def polish(problem: Problem, start: Windows, limit: float) -> Windows:
    """A setting within `limit` that no wider window and none of the most promising pairs of moves improves."""
    walk = Walk(problem, start, problem.objective(start))
    while True:
        _spend(walk, limit)
        if not _exchange(walk, limit):
            return walk.windows


def _spend(walk: Walk, limit: float) -> None:
    """Widen windows while that fits and helps."""
    while (found := walk.best(walk.wider(limit))) is not None and found[1] < 0:
        walk.go(*found)


def _exchange(walk: Walk, limit: float) -> bool:
    """Make the first pair of moves found that lowers the objective within `limit`; False after as many tries as layers."""
    problem, room = walk.problem, limit - walk.problem.spending.of(walk.windows)
    pairs = [
        (walk.estimate(less) + walk.estimate(more), less, more)
        for less in walk.narrower()
        for more in walk.wider(float("inf"))
        if less[0] != more[0] and walk.spends(less) + walk.spends(more) <= room
    ]
    pairs.sort(key=lambda pair: pair[0])
    for _, less, more in pairs[: max(8, len(problem.layers))]:
        windows = with_window(with_window(walk.windows, *less), *more)
        value = problem.objective(windows)
        if value < walk.value:
            walk.windows, walk.value = windows, value
            problem.keep(windows)
            return True
    return False
