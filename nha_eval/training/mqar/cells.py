"""The trainings of an MQAR sweep: which there are, what model each has, and what it is called.

[cell for model in first_cells(spec) for cell in rates_of(spec, model)]; seeds_of(spec, model, 3e-3)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from models.configuration import NHAConfig
from models.mixers import mixer_class
from models.presets import pattern_config, pattern_names, pattern_parts
from nha_eval.errors import UserError, nearest
from nha_eval.training.mqar.spec import Model, MqarSpec, Task

# What of a spec decides one training, beside its task, model, rate and seed.
_SHARED = (
    *("vocabulary", "power", "random_filler", "data_seed", "selection_examples", "test_examples", "layers", "tie_embeddings"),
    *("initializer_range", "epochs", "batch", "warmup", "schedule", "weight_decay", "clip", "select_every", "stop_at"),
    *("device", "dtype"),
)
OWN = "own"  # in the place of a window: the pattern's


@dataclass(frozen=True)
class Shape:
    """One model of the sweep. window: tokens, "full" or "own"; slots, slot_overlap: None for the pattern's."""

    mixer: str
    d_model: int
    heads: int
    window: int | str
    slots: int | None
    fusion: str
    slot_overlap: bool | None
    empty_slots: str
    options: tuple[tuple[str, Any], ...]
    test_windows: tuple[int | str, ...] = ()

    @property
    def variant(self) -> str:
        """What is not as published, as text; empty where all is."""
        found = [f"fusion={self.fusion}"] if self.fusion != "softmax" else []
        found += [] if self.slot_overlap is None else [f"overlap={str(self.slot_overlap).lower()}"]
        found += [f"empty_slots={self.empty_slots}"] if self.empty_slots != "mask" else []
        return " ".join([*found, *(f"{key}={value}" for key, value in self.options)])

    @property
    def label(self) -> str:
        """For people: `nha d=64 heads=2 w=16 slots=16`."""
        found = [self.mixer, f"d={self.d_model}", f"heads={self.heads}"]
        found += [] if self.window == OWN else [f"w={self.window}"]
        found += [] if self.slots is None else [f"slots={self.slots}"]
        return " ".join([*found, *([self.variant] if self.variant else [])])


@dataclass(frozen=True)
class Cell:
    """One training: `number` is that of its shape. tested: whether it is measured on the test split too."""

    task: Task
    number: int
    shape: Shape
    rate: float
    seed: int
    tested: bool

    def id(self, spec: MqarSpec) -> str:
        """A name of its own for all that decides its result."""
        shared = {key: value for key, value in spec.settings().items() if key in _SHARED}
        own = {"task": self.task.model_dump(mode="json"), "shape": asdict(self.shape), "rate": self.rate, "seed": self.seed}
        text = json.dumps([shared, own, self.tested], sort_keys=True)
        return f"{self.shape.mixer}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def shapes(spec: MqarSpec) -> list[Shape]:
    """Every model of the sweep. Raises UserError for one that cannot be made."""
    found = [shape for model in spec.models for shape in _crossed(model)]
    for shape in found:
        mqar_config(spec, shape, spec.tasks[0].longest)
    return found


def _crossed(model: Model) -> Iterator[Shape]:
    if model.mixer not in pattern_names():
        raise UserError(f"no mixer to train is called {model.mixer!r}; {nearest(model.mixer, pattern_names(), what='mixers')}")
    mixer, own, _ = pattern_parts(model.mixer)
    unlike = {"slots": None, "empty_slots": ["mask"]} if mixer not in ("nha", "gsa") else {}
    unlike |= {"fusion": ["softmax"], "slot_overlap": None} if mixer != "nha" else {}
    given = [name for name, plain in unlike.items() if getattr(model, name) != plain]
    if given:
        what = "window beside its slots" if mixer == "gsa" else "slots"
        raise UserError(f"models: mixer {model.mixer} has no {what}: leave {', '.join(given)} out")
    # A hybrid's full layers keep all keys, and those of transformer++ are told apart from swa by their window alone.
    movable = mixer_class(mixer).has_window and own is not None
    if not movable and (model.windows or model.test_windows):
        raise UserError(f"models: mixer {model.mixer} has no window to set: leave windows and test_windows out")
    slots = model.slots or [64 if mixer in ("nha", "gsa") else None]
    crossed = product(
        model.d_model, model.heads, model.windows or [OWN], slots, model.fusion, model.slot_overlap or [None],
        model.empty_slots, model.options,
    )  # fmt: skip
    for d_model, heads, window, count, fusion, overlap, empty, options in crossed:
        chosen = tuple(sorted(options.items()))
        yield Shape(
            model.mixer, d_model, heads, window, count, fusion, overlap, empty, chosen, tuple(model.test_windows)
        )  # fmt: skip


def mqar_config(spec: MqarSpec, shape: Shape, longest: int) -> NHAConfig:
    """The model of a shape for sequences of up to `longest` tokens. Raises UserError, naming the shape, where there is none."""
    mixer, *_ = pattern_parts(shape.mixer)
    width = shape.d_model // shape.heads
    # A head of the recurrent mixers is as wide as one of attention, but for gla, whose keys are half of the hidden size.
    defaults = {
        "gla": {"num_heads": shape.heads},
        "gated_deltanet": {"num_heads": shape.heads, "head_dim": width, "expand_v": 1.0},
        "mamba2": {"head_dim": width, "state_size": width},
    }
    sizes = {
        "hidden_size": shape.d_model,
        "intermediate_size": 0,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": shape.heads,
        "vocab_size": spec.vocabulary,
        "max_position_embeddings": longest,
        "tie_word_embeddings": spec.tie_embeddings,
        "initializer_range": spec.initializer_range,
        "mixer_options": {mixer: defaults.get(mixer, {}) | dict(shape.options)},
    }
    changes: dict[str, Any] = {} if shape.window == OWN else {"window": None if shape.window == "full" else shape.window}
    if mixer in ("nha", "gsa"):
        changes |= {"num_slots": shape.slots, "empty_slots": shape.empty_slots, "fusion": shape.fusion}
        if shape.slot_overlap is not None:
            changes["slot_overlap"] = shape.slot_overlap
    if shape.d_model % shape.heads:
        raise UserError(f"models: {shape.label} cannot be made: d_model is no multiple of its heads")
    try:
        config = pattern_config(shape.mixer, sizes, **changes)
        _check_mixers(config)
    except ValueError as problem:
        raise UserError(f"models: {shape.label} cannot be made: {problem}") from problem
    return config


def _check_mixers(config: NHAConfig) -> None:
    import torch

    # Mixers refuse options when they are built.
    with torch.device("meta"):
        for layer, mixer in enumerate(config.mixers):
            mixer_class(mixer)(config, layer)


def first_cells(spec: MqarSpec) -> list[Cell]:
    """Every model of every task, tasks first: at the first rate, on the seed that chooses it."""
    found = list(enumerate(shapes(spec)))
    return [Cell(task, number, shape, spec.rates[0], spec.rate_seed, False) for task in spec.tasks for number, shape in found]


def rates_of(spec: MqarSpec, model: Cell) -> list[Cell]:
    """The trainings that choose a model's rate; none where there is one rate."""
    return [replace(model, rate=rate) for rate in spec.rates] if len(spec.rates) > 1 else []


def rate_beyond(spec: MqarSpec, tried: list[float], best: float) -> float | None:
    """The next rate where the best of those tried is at an end, as far beyond it as the spec's two rates there are apart."""
    rates = sorted(spec.rates)
    if best == min(tried):
        found = best * rates[0] / rates[1]
    elif best == max(tried):
        found = best * rates[-1] / rates[-2]
    else:
        return None
    return float(f"{found:.3g}")


def seeds_of(spec: MqarSpec, model: Cell, rate: float) -> list[Cell]:
    """The trainings that are reported of a model."""
    return [replace(model, rate=rate, seed=seed, tested=True) for seed in spec.seeds]


def choose_rates(cells: list[Cell], records: dict[int, dict[str, Any]]) -> dict[tuple[str, int], float]:
    """The rate by (task's name, shape): the highest accuracy on the selection split, of several the one that needed the fewest
    steps, of these the lowest. records: by the cell's place in `cells`; one that failed counts as never right.
    """
    best: dict[tuple[str, int], tuple[Any, ...]] = {}
    for place, cell in enumerate(cells):
        record = records[place]
        accuracy = record["selection"] if record["status"] == "ok" else -1.0
        rank = (accuracy, -(record.get("steps") or 0), -cell.rate)
        key = cell.task.name, cell.number
        best[key] = max(best.get(key, (-2.0,)), rank)
    return {key: -rank[2] for key, rank in best.items()}
