"""The stages of a search: sweep, families, searches under each budget, confirmation; how much time each may take.

`Search` holds what they share. A setting counts for a budget from the moment that it is evaluated, whichever stage did so: the
searched setting is the best of all that fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nha_eval.errors import UserError
from nha_eval.progress import duration
from nha_eval.search import families
from nha_eval.search.budgets import Budget, setting_name
from nha_eval.search.confirm import SEARCHED, Entry
from nha_eval.search.evaluator import Deadline, Evaluator, OutOfTime
from nha_eval.search.evolution import evolve
from nha_eval.search.greedy import narrow, polish, widen
from nha_eval.search.problem import Problem, additive
from nha_eval.search.sensitivity import alone, sweep
from nha_eval.search.spec import SearchSpec
from nha_eval.search.spending import Spending
from nha_eval.search.windows import Windows

SLACK = 1.15  # times what the ending is expected to take is kept for it
AGAIN = "what was measured is kept: the same command goes on from there"


@dataclass
class Search:
    """One search on one model; `candidates` are the windows, narrow to wide, full (None) last."""

    spec: SearchSpec
    held: Evaluator
    unseen: Evaluator
    spending: Spending
    candidates: tuple[int | None, ...]
    limits: dict[str, float]  # by the budget's label
    deadline: Deadline
    say: Callable[[str], None]
    seconds_a_measurement: float = 0.0  # of the latency of one setting, at the end
    found_by: dict[Windows, str] = field(default_factory=dict)
    in_time: bool = True

    def __post_init__(self) -> None:
        self._stage = ""
        self.alone = alone(self.held.full, self.spending.layers, self.candidates)

    # What is lowered

    def value(self, windows: Windows) -> float:
        """KL, and the answers' loss at its weight. Raises OutOfTime."""
        value = self.kl(windows)
        if self.spec.probe_weight:
            value += self.spec.probe_weight * float(self.held.answers(windows).loss.mean())
        return value

    def kl(self, windows: Windows) -> float:
        """Mean KL in nats a token. Raises OutOfTime."""
        value = float(self.held.kl(windows).mean())
        self.found_by.setdefault(windows, self._stage)
        return value

    # Stages

    def sensitivity(self) -> None:
        """The sweep. Raises UserError where the time limit leaves no room for it and what must follow."""
        self._stage = "sensitivity"
        try:
            known = all(self.held.knows("kl", windows) for windows in self.alone.values())
            if self.held.on_gpu and not known:
                first = {window: windows for (_, window), windows in reversed(self.alone.items())}
                self.held.warm([self.held.full, *first.values()])
            if self.held.texts:
                self.held.answers(self.held.full)
            if not known:
                self.held.prepare()
            self._check_time()
            sweep(self.held, self.alone, self._telling())
        except OutOfTime as problem:
            raise UserError(
                f"--time {self.spec.time:g}: over before each layer was measured alone: give more, or fewer --sequences; "
                f"{AGAIN}"
            ) from problem
        for windows in (self.held.full, *self.alone.values()):
            self.found_by[windows] = self._stage

    def problem(self) -> Problem:
        """What the sweep has found, as the searches take it."""
        base = self.value(self.held.full)
        losses = {place: self.value(windows) - base for place, windows in self.alone.items()}
        losses |= {(i, None): 0.0 for i in self.spending.layers}
        return Problem(self.candidates, self.spending, losses, self.value, self.held.keep)

    def additive(self, problem: Problem) -> None:
        """The setting under each budget that would be best if layers added up. Raises UserError where the time is over."""
        self._stage = "additive"
        try:
            for limit in self.limits.values():
                problem.objective(additive(problem, limit))
        except OutOfTime as over:
            raise UserError(f"--time {self.spec.time:g}: over before a setting was found: give more; {AGAIN}") from over

    def families(self, problem: Problem) -> dict[tuple[str, str], Windows | None]:
        """Each family's best setting by budget and family; None where none fits or the time did not reach to one."""
        found: dict[tuple[str, str], Windows | None] = {}
        for budget, limit in self.limits.items():
            rests: dict[int, float] = {}
            for family in families.PLACED:
                self._stage = family
                settings = families.of_family(problem, family, limit)
                values = {windows: self._reached(windows) for windows in settings.values()}
                values = {windows: value for windows, value in values.items() if value is not None}
                found[budget, family] = min(values, key=values.get, default=None)
                for rest, windows in settings.items():
                    if windows in values:
                        rests[rest] = min(values[windows], rests.get(rest, np.inf))
            self._stage = "guided"
            found[budget, "guided"] = self._guided(problem, rests, limit)
            self._stage = "uniform"
            found[budget, "uniform"] = self._uniform(problem, limit)
        return found

    def searches(self, problem: Problem) -> None:
        """Evaluate settings under every budget, as far as the time goes."""
        limits = list(self.limits.values())
        try:
            self._stage = "greedy"
            # First from what is best so far, which a short time limit leaves room for; then the long ways, and once more.
            self._polish(problem)
            for walk in (narrow, widen):
                for limit, _ in walk(problem, limits):
                    self._tell(limit)
            self._polish(problem)
            if self.spec.method == "evolution":
                self._stage = "evolution"
                for number, limit in enumerate(limits):
                    start = sorted(self._startable(), key=self.value)
                    seed = [self.spec.seed, number]
                    evolve(problem, limit, start, generations=self.spec.generations, seed=seed)
                    self._tell(limit)
        except OutOfTime:
            self.in_time = False
            self.say("the time for searching is over: going on to confirm the best settings so far")

    def best(self, limit: float, among: list[Windows] | None = None) -> Windows | None:
        """The best setting within `limit`, of all evaluated or of those given, the cheapest of equals; None where none fits."""
        fitting = [w for w in (self._valued() if among is None else among) if self.spending.of(w) <= limit]
        return min(fitting, key=lambda windows: (self.value(windows), self.spending.of(windows)), default=None)

    def entries(self, families_found: dict[tuple[str, str], Windows | None]) -> list[Entry]:
        """The searched setting of each budget and the families beside it."""
        found = []
        for budget, limit in self.limits.items():
            best = self.best(limit)
            names = {SEARCHED: best, **{family: families_found.get((budget, family)) for family in families.FAMILIES}}
            for family, windows in names.items():
                reason = None if windows is not None else self._why_not(family)
                found.append(Entry(budget, family, setting_name(family, budget, self.spending.unit), windows, reason))
        return found

    def reserve_ending(self) -> None:
        """Keep the time that confirming takes."""
        passes = self.spec.unseen / self.spec.sequences
        # One more pass for the full model, which all are held against.
        each = self.held.seconds("kl") * passes + self.seconds_a_measurement
        if self.spec.probe:
            each += self.held.seconds("probe") * (1 + self.spec.unseen / self.spec.probe)
        ending = each * (1 + len(self.limits) * (1 + len(families.FAMILIES)))
        self.deadline.reserve(SLACK * ending)

    # Time and telling

    def _check_time(self) -> None:
        """Say what the sweep and the confirmation take, and refuse a search that the limit leaves no room for both."""
        self.reserve_ending()
        kl, probe = self.held.seconds("kl"), self.held.seconds("probe")
        left = [windows for windows in self.alone.values() if not self.held.knows("kl", windows)]
        asked = [windows for windows in self.alone.values() if self.held.texts and not self.held.knows("probe", windows)]
        # In the mean half of the layers are run again.
        sweeping = kl / 2 * len(left) + probe / 2 * len(asked)
        ending = self.deadline.reserved
        if left:
            self.say(f"each layer alone takes about {duration(sweeping)}, confirming at most {duration(ending)}")
        least = self.deadline.spent + sweeping + kl * len(self.limits) + ending
        if self.deadline.limit is not None and least > self.deadline.limit:
            raise UserError(
                f"--time {self.spec.time:g}: measuring each layer alone, and confirming, takes about {least / 60:.1f} minutes "
                "here: give more than that, or fewer --sequences, --unseen, --probe or --windows"
            )

    def _polish(self, problem: Problem) -> None:
        for limit in self.limits.values():
            polish(problem, self.best(limit, self._startable()), limit)
            self._tell(limit)

    def _telling(self) -> Callable[[int, dict[int, float]], None]:
        """What says each layer's figures, and the time that the others take."""
        layers, begun, total = self.spending.layers, self.deadline.spent, len(self.held.full)
        work = {layer: total - layer for layer in layers}  # layers run again

        def told(layer: int, kl: dict[int, float]) -> None:
            done = sum(work[each] for each in layers if each <= layer)
            left = duration((self.deadline.spent - begun) * (sum(work.values()) / done - 1))
            figures = ", ".join(f"{window}: {value:.4f}" for window, value in kl.items())
            self.say(f"[{layers.index(layer) + 1}/{len(layers)}] layer {layer} alone, KL by window: {figures} ({left} left)")

        return told

    def _valued(self) -> list[Windows]:
        """The settings whose value is known; those that only KL was asked of lack the answers' loss."""
        return [windows for windows in self.found_by if not self.spec.probe_weight or windows in self.held.answers_of]

    def _startable(self) -> list[Windows]:
        """The settings that a search can set out from: of candidates alone, as of a uniform window of another size no layer's
        own loss is known."""
        return [windows for windows in self._valued() if set(windows) <= set(self.candidates)]

    def _reached(self, windows: Windows) -> float | None:
        try:
            return self.value(windows)
        except OutOfTime:
            self.in_time = False
            return None

    def _guided(self, problem: Problem, rests: dict[int, float], limit: float) -> Windows | None:
        """At the window of the rest with which full layers placed without looking did best."""
        if not rests:
            return None
        by_kl = Problem(problem.windows, problem.spending, problem.alone, self.kl, problem.keep)
        try:
            windows = families.guided(by_kl, min(rests, key=rests.get), limit)
            self.value(windows)
            return windows
        except OutOfTime:
            self.in_time = False
            return None

    def _uniform(self, problem: Problem, limit: float) -> Windows | None:
        windows = families.uniform(problem, limit, self.spec.length - 1)
        return windows if windows is not None and self._reached(windows) is not None else None

    def _why_not(self, family: str) -> str:
        if not self.in_time:
            return "not reached within --time"
        return "no single window fits" if family == "uniform" else "no layer can be full within the budget"

    def _tell(self, limit: float) -> None:
        best = self.best(limit)
        if best is not None:
            figures = f"KL {self.kl(best):.4f} at {self.spending.of(best):,.0f} {self.spending.unit}"
            self.say(f"{self._stage}: {figures} ({self.found_by[best]}), {len(self.found_by)} settings evaluated")


def label_limits(limits: list[Budget], full: float) -> dict[str, float]:
    """Each budget's limit by its label, largest first."""
    found = {budget.label: budget.limit(full) for budget in limits}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def row_of(search: Search, windows: Windows, state: Spending, latency: Spending | None) -> dict[str, Any]:
    """A row of search.csv: what the setting costs and its figures on held-out text."""
    row = {
        "found_by": search.found_by.get(windows),
        "full_layers": sum(windows[i] is None for i in state.layers),
        "state_bytes": int(state.of(windows)),
        "state_share": round(state.of(windows) / state.full, 6),
        **search.held.row(windows),
    }
    if latency is not None:
        milliseconds = latency.of(windows)
        row |= {"latency_ms": round(milliseconds, 4), "latency_share": round(milliseconds / latency.full, 6)}
    return row
