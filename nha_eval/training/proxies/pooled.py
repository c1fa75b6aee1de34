"""What the cells' records say together: losses by document of each model, window and length, seeds averaged.

pool = Pool(spec, cells, records)
pool.names; pool.losses["nha", "32", 1024].perplexity("hits")
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from nha_eval.training.proxies.cells import Cell
from nha_eval.training.proxies.intervals import Resamples
from nha_eval.training.proxies.spec import ProxySpec

PARTS = ("all", "hits", "rest")


@dataclass
class Losses:
    """Losses of one model at one window and length. seeds: of each seed's record, sums and tokens by part [documents]."""

    draws: Resamples
    seeds: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)

    def add(self, seed: int, documents: dict[str, list[float]]) -> None:
        found = {name: np.array(values, np.float64) for name, values in documents.items()}
        found["rest"] = found["all"] - found["hits"]
        found["rest_tokens"] = found["all_tokens"] - found["hits_tokens"]
        self.seeds[seed] = found

    def tokens(self, part: str) -> np.ndarray:
        """[documents], the same for every seed."""
        return next(iter(self.seeds.values()))[f"{part}_tokens"]

    def sums(self, part: str, seed: int | None = None) -> np.ndarray:
        """[documents] nats, of a seed or the mean over all."""
        chosen = [self.seeds[seed]] if seed is not None else list(self.seeds.values())
        return np.mean([found[part] for found in chosen], 0)

    def nll(self, part: str, seed: int | None = None) -> float:
        """The mean a token, NaN where there is none."""
        tokens = self.tokens(part).sum()
        return float(self.sums(part, seed).sum() / tokens) if tokens else math.nan

    def interval(self, part: str, seed: int | None = None) -> tuple[float, float]:
        """95%, of the mean loss a token, over documents."""
        return self.draws.interval(self.sums(part, seed), self.tokens(part))

    def against(self, other: Losses, part: str) -> tuple[float, float, float]:
        """(mean loss less the other's, low, high), paired by document."""
        return self.draws.difference(self.sums(part), other.sums(part), self.tokens(part))


class Pool:
    """names: the models with figures, in the spec's order. own: the window each is measured at as it is, as text."""

    def __init__(self, spec: ProxySpec, cells: list[Cell], records: list[dict[str, Any]]):
        self.spec, self.cells, self.records = spec, cells, records
        self.losses: dict[tuple[str, str, int], Losses] = {}
        self.own: dict[str, str] = {}
        for cell, record in self.done():
            for one in record["measured"]:
                key = cell.model, str(one["window"]), int(one["length"])
                self.own.setdefault(cell.model, key[1])
                self.losses.setdefault(key, Losses(self._draws(len(one["documents"]["all"])))).add(cell.seed, one["documents"])
        self.names = list(self.own)

    def done(self) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """The cells with figures and their records."""
        yield from ((cell, record) for cell, record in zip(self.cells, self.records, strict=True) if record["status"] == "ok")

    def record(self, name: str) -> dict[str, Any]:
        """A record of the model, of the first seed that has one."""
        return next(record for cell, record in self.done() if cell.model == name)

    def at(self, name: str, times: int = 1, window: str | None = None) -> Losses:
        """Of a model at so many times the training's length; window: None for its own."""
        return self.losses[name, self.own[name] if window is None else window, times * self.spec.text.length]

    def windows(self, name: str) -> list[str]:
        """Those it was measured at, its own first."""
        return list(dict.fromkeys(window for model, window, _ in self.losses if model == name))

    @cached_property
    def lengths(self) -> list[int]:
        """Times the training's length, ascending."""
        return sorted(set(self.spec.evaluate.lengths))

    @cached_property
    def reference(self) -> str | None:
        """The full-attention proxy, by which recall is calibrated."""
        return next((name for name in self.names if name.startswith("transformer++")), None)

    @cached_property
    def base(self) -> str | None:
        """The model that the others stand against: NHA as published, or the first."""
        return "nha" if "nha" in self.names else next(iter(self.names), None)

    def _draws(self, documents: int) -> Resamples:
        if not hasattr(self, "_resamples"):
            self._resamples = Resamples(documents, self.spec.evaluate.resamples)
        return self._resamples

    def recall(self, name: str, form: str, distance: int, window: str | None = None) -> Recalled | None:
        """Of all seeds together; None where it was not asked."""
        window = self.own[name] if window is None else window
        found = [
            one
            for cell, record in self.done()
            if cell.model == name
            for one in record["recall"]
            if (one["form"], one["distance"], str(one["window"])) == (form, distance, window)
        ]
        return Recalled.of(found) if found else None


@dataclass(frozen=True)
class Recalled:
    """Shares foretold right, with what was told and without; the 95% interval is of their difference, over sequences. nats:
    (by how much the asked tokens' mean loss is lower where they were told, low, high); None in records from before it was kept.
    """

    right: float
    control: float
    low: float
    high: float
    n: int
    nats: tuple[float, float, float] | None = None

    @property
    def gain(self) -> float:
        return self.right - self.control

    @classmethod
    def of(cls, seeds: list[dict[str, Any]]) -> Recalled:
        """Of the records of the seeds, whose sequences are the same."""
        right, control = (np.mean([one[name] for one in seeds], 0) for name in ("right", "control"))
        gains = right - control
        draws, each = Resamples(len(gains), 2000), np.ones(len(gains))
        nats = None
        if all("right_nats" in one for one in seeds):
            told, other = (np.mean([one[name] for one in seeds], 0) for name in ("right_nats", "control_nats"))
            nats = draws.difference(other, told, each)
        return cls(float(right.mean()), float(control.mean()), *draws.interval(gains, each), len(gains), nats)
