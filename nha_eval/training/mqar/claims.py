"""What a sweep says of what is expected of the mixers: a row a comparison in `claims.csv`, a line a claim in `claims.md`.

    write_claims(spec, Path("results/runs/train-mqar-quick/mqar.csv"))

All is of the test split, at the rate chosen for each model. Models are compared seed by seed, as one seed gives all models the
same batches in the same order. A place is a kind of sequence and a pair of models; there a claim holds where it does on every
seed, fails where it does on none, and is `mixed` between. Accuracies within `LEVEL` of each other are `level`: mostly both
models know all, or neither anything. Intervals are Student's, of the mean over seeds at 95%.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from scipy.stats import t as student

from nha_eval.journal import write_atomic
from nha_eval.stats import CONFIDENCE
from nha_eval.training.mqar.claims_page import CLAIMS, FULL, LEVEL, NEAR_ALL, NHA, WINDOW, Place, page
from nha_eval.training.mqar.data import split_of
from nha_eval.training.mqar.spec import Asked, MqarSpec

# A sliding window may know by chance, and by a test split of its own size, this much more than its reach tells.
CHANCE = 0.02
TAPS = "conv_size="
Kind = tuple[int, int]  # length, pairs


@dataclass(frozen=True)
class Setting:
    """A model of the table, at a window: tokens, `full` or `none`."""

    task: str
    mixer: str
    variant: str
    window: str
    slots: str
    d_model: int
    heads: int
    state_elements: int
    trained_window: str

    @property
    def label(self) -> str:
        found = [self.mixer, f"d={self.d_model}", f"heads={self.heads}"]
        found += [f"w={self.window}"] if self.window not in ("none", "full") or self.moved else []
        found += [f"slots={self.slots}"] if self.slots else []
        return " ".join([*found, *([self.variant] if self.variant else [])])

    @property
    def taps(self) -> int:
        """Taps of its short convolutions, of those that its mixer has by choice; 1 for none."""
        return next((int(part.removeprefix(TAPS)) for part in self.variant.split() if part.startswith(TAPS)), 1)

    @property
    def change(self) -> str:
        """What else is not as published; empty where all is."""
        return " ".join(part for part in self.variant.split() if not part.startswith(TAPS))

    @property
    def moved(self) -> bool:
        """Whether it is tested at another window than it was trained at."""
        return self.window != self.trained_window

    def like(self, other: Setting, *but: str) -> bool:
        """Whether both are the same but for the fields `but`, their states and the window they were trained at."""
        free = {"state_elements", "trained_window", *but}
        return all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name not in free)


def write_claims(spec: MqarSpec, table: Path) -> Path | None:
    """claims.csv and claims.md beside mqar.csv, of what it holds; None, and nothing is written, where no claim can be told."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    places = list(compare(spec, rows))
    if not places:
        return None
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Place)], lineterminator="\n")
    writer.writeheader()
    for place in places:
        row = {**asdict(place), "claim": CLAIMS[place.claim]}
        writer.writerow({name: f"{x:.4g}" if isinstance(x, float) else x for name, x in row.items()})
    write_atomic(table.with_name("claims.csv"), text.getvalue())
    path = table.with_name("claims.md")
    write_atomic(path, page(places) + _rates(spec, rows))
    return path


def _rates(spec: MqarSpec, rows: list[dict[str, str]]) -> str:
    """A sentence on the models whose best rate is one at the edge, where a better one may lie beyond."""
    if len(spec.rates) == 1:
        return ""
    chosen = {_training(row)[:-1] for row in rows if row["split"] == "test" and row["status"] == "ok"}
    tried: dict[tuple[str, ...], set[float]] = defaultdict(set)
    for row in rows:
        *model, rate, _ = _training(row)
        tried[tuple(model)].add(float(rate))
    edges = [sum(float(rate) == edge(tried[tuple(model)]) for *model, rate in chosen) for edge in (min, max)]
    every = sorted(set().union(*tried.values()))
    return (
        f"\nOf {len(chosen)} models {edges[0]} are best at the lowest of the rates tried of them and {edges[1]} at the "
        f"highest; over all models these are {every[0]:g} to {every[-1]:g}.\n"
    )


def compare(spec: MqarSpec, rows: list[dict[str, str]]) -> Iterator[Place]:
    """Every place of every claim that the rows of mqar.csv can tell of, claim by claim."""
    order = list(CLAIMS)
    trained = {task.name: [(kind.length, kind.pairs) for kind in task.train] for task in spec.tasks}
    for place in sorted(_places(spec, rows), key=lambda place: order.index(place.claim)):
        longest, most = (max(side) for side in zip(*trained[place.task], strict=True))
        yield replace(place, trained="yes" if place.length <= longest and place.pairs <= most else "no")


def _places(spec: MqarSpec, rows: list[dict[str, str]]) -> Iterator[Place]:
    found = _tested(rows, "test")
    own = {setting: kinds for setting, kinds in found.items() if not setting.moved}
    plain = [s for s in own if s.mixer == NHA and not s.change]
    selected = {
        s: fmean(x for seeds in kinds.values() for x in seeds.values()) for s, kinds in _tested(rows, "selection").items()
    }
    for setting in (s for s in own if s.mixer == FULL):
        yield from _against("full", own, setting, lambda kind: (f"{NEAR_ALL:.0%} of all", NEAR_ALL), up=True)
    for setting in (s for s in own if s.mixer == WINDOW and s.window.isdecimal()):
        reach = spec.layers * (int(setting.window) - 1 + setting.taps - 1)
        yield from _against("reach", own, setting, lambda kind, reach=reach: _within(spec, kind, reach), up=False)
    for setting in own:
        fits = [s for s in plain if _beside(s, setting) and s.state_elements <= setting.state_elements]
        alike = [s for s in fits if s.state_elements == setting.state_elements and s.taps == setting.taps]
        smaller, same = f"smaller {setting.mixer}", f"same {setting.mixer}"
        # Of several settings the selection split takes one.
        if smaller in CLAIMS and fits:
            yield from _paired(smaller, own, max(fits, key=lambda s: selected.get(s, 0.0)), setting)
        if same in CLAIMS and alike and not setting.change:
            yield from _paired(same, own, max(alike, key=lambda s: selected.get(s, 0.0)), setting)
    for column in ("window", "slots"):
        for first in plain:
            wider = [s for s in plain if s.like(first, column) and _size(s, column) > _size(first, column)]
            if wider:
                yield from _paired(column, own, min(wider, key=lambda s: _size(s, column)), first)
    for setting in (s for s in own if s.mixer == NHA and s.change in CLAIMS):
        for base in (s for s in plain if s.like(setting, "variant") and s.taps == setting.taps):
            yield from _paired(setting.change, own, base, setting)
    for setting in (s for s in plain if s.taps > 1):
        for base in (s for s in plain if s.like(setting, "variant") and s.taps == 1):
            yield from _paired("convolutions", own, setting, base)
    for setting in (s for s in found if s.moved and s.mixer == NHA and not s.change):
        base = next((s for s in plain if s.like(setting, "window") and s.window == setting.trained_window), None)
        if base is not None:
            claim = "wider" if _size(setting, "window") > _size(base, "window") else "narrower"
            yield from _paired(claim, found, setting, base)


def _tested(rows: list[dict[str, str]], split: str) -> dict[Setting, dict[Kind, dict[int, float]]]:
    """Accuracy by setting, kind of sequence and seed, of the seeds that are reported."""
    reported = {_training(row) for row in rows if row["split"] == "test" and row["status"] == "ok"}
    found: dict[Setting, dict[Kind, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["split"] != split or row["status"] != "ok" or _training(row) not in reported:
            continue
        names = {name: row[name] for name in ("task", "mixer", "variant", "window", "slots", "trained_window")}
        numbers = {name: int(row[name]) for name in ("d_model", "heads", "state_elements")}
        setting = Setting(**names, **numbers)
        found[setting][int(row["length"]), int(row["pairs"])][int(row["seed"])] = float(row["accuracy"])
    return found


def _training(row: dict[str, str]) -> tuple[str, ...]:
    names = ("task", "mixer", "variant", "trained_window", "slots", "d_model", "heads", "rate", "seed")
    return tuple(row[name] for name in names)


def _beside(a: Setting, b: Setting) -> bool:
    return (a.task, a.d_model) == (b.task, b.d_model)


def _size(setting: Setting, column: str) -> float:
    """A window or a number of slots, to be ordered."""
    text = getattr(setting, column)
    return float("inf") if text == "full" else float(text or 0)


def _paired(claim: str, found: dict, a: Setting, b: Setting) -> Iterator[Place]:
    """a against b, of which the claim says that a recalls more."""
    for kind in sorted(found[a].keys() & found[b].keys()):
        seeds = sorted(found[a][kind].keys() & found[b][kind].keys())
        pairs = [(found[a][kind][seed], found[b][kind][seed]) for seed in seeds]
        if pairs:
            yield _place(claim, a, b.label, b.state_elements, kind, pairs, up=True)


def _against(claim: str, found: dict, a: Setting, bound: Callable[[Kind], tuple[str, float]], up: bool) -> Iterator[Place]:
    """A setting against a bound, which each kind has, above it (up) or below, where the bound is not all."""
    for kind, seeds in sorted(found[a].items()):
        name, value = bound(kind)
        if up or value < NEAR_ALL:
            yield _place(claim, a, name, "", kind, [(accuracy, value) for accuracy in seeds.values()], up)


def _place(claim, a: Setting, b: str, state_b, kind: Kind, pairs: list[tuple[float, float]], up: bool) -> Place:
    differences = [x - y for x, y in pairs]
    mean = fmean(differences)
    low = high = ""
    if len(differences) > 1:
        half = float(student.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * stdev(differences) / len(differences) ** 0.5
        low, high = mean - half, mean + half
    bound = state_b == ""
    signs = [d if up else -d for d in differences]
    if bound:
        verdict = "holds" if min(signs) >= 0 else "fails" if max(signs) < 0 else "mixed"
    elif max(map(abs, signs)) <= LEVEL:
        verdict = "level"
    else:
        verdict = "holds" if min(signs) > 0 else "fails" if max(signs) < 0 else "mixed"
    first, second = (fmean(side) for side in zip(*pairs, strict=True))
    return Place(
        claim, a.task, *kind, "", a.label, b, a.state_elements, state_b, first, second, mean, low, high, len(pairs), verdict
    )  # fmt: skip


def _within(spec: MqarSpec, kind: Kind, reach: int) -> tuple[str, float]:
    """(words, the most that can be known by layers that together reach so many tokens back): the share of queries whose value
    stands there, a guess among the values not seen for the others, and `CHANCE`."""
    length, pairs = kind
    inputs, places, _ = split_of(spec, "test", Asked(length=length, pairs=pairs), spec.test_examples)
    keys, asked = inputs[:, 0 : 2 * pairs : 2], np.take_along_axis(inputs, places, 1)
    told = 2 * (keys[:, None] == asked[:, :, None]).argmax(2) + 1
    within = float((places - told <= reach).mean())
    guess = 1 / (spec.vocabulary - spec.vocabulary // 2 - pairs + 1)
    return f"within {reach} tokens", min(1.0, within + (1 - within) * guess + CHANCE)
