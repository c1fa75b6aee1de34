"""The trainings of a proxy spec: which there are, what model each has, and what it is called.

[cell for cell in cells(spec, vocabulary)]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from models.configuration import NHAConfig
from models.mixers import mixer_class
from models.modeling import NHAForCausalLM
from models.presets import pattern_config, pattern_names, pattern_parts
from nha_eval.errors import UserError, nearest
from nha_eval.training.proxies.spec import Model, ProxySpec

# What of a spec decides how one model is trained and measured, beside the model, its rate and its seed.
_SHARED = (
    *("text", "tokenizer", "sizes", "tokens", "batch", "micro_batch", "warmup", "schedule", "weight_decay", "clip"),
    *("evaluate", "recall", "device", "dtype"),
)
OWN = "own"  # in the place of a window: the pattern's
DRAWN = "drawn"  # in the place of the trained window: another each step


@dataclass(frozen=True)
class Cell:
    """One training. window: tokens, "full" or "own"; slots: None for those of the sizes."""

    mixer: str
    window: int | str
    slots: int | None
    options: tuple[tuple[str, Any], ...]
    jitter: tuple[int | str, ...]
    test_windows: tuple[int | str, ...]
    rate: float
    seed: int

    @property
    def model(self) -> str:
        """The name of the model, the same for all seeds: `nha`, `nha w=64 slots=16`."""
        found = [self.mixer]
        if self.jitter:
            found.append(f"w={DRAWN}")
        elif self.window != OWN:
            found.append(f"w={self.window}")
        found += [] if self.slots is None else [f"slots={self.slots}"]
        return " ".join([*found, *(f"{key}={value}" for key, value in self.options)])

    @property
    def label(self) -> str:
        return f"{self.model}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """A name for files, its own among those of a spec."""
        return f"{self.model} seed={self.seed}".replace("+", "p").replace("=", "").replace(" ", "-")

    def id(self, spec: ProxySpec) -> str:
        """A name of its own for all that decides its result."""
        content = spec.settings()
        own = [self.mixer, self.window, self.slots, self.jitter, self.test_windows, self.rate, self.seed]
        own += [self.options] if self.options else []
        text = json.dumps([{key: content[key] for key in _SHARED}, own], sort_keys=True)
        return f"{self.folder}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def cells(spec: ProxySpec, vocabulary: int) -> list[Cell]:
    """Every training, a seed after the other. Raises UserError for a model that cannot be made, or that is there twice."""
    found = [cell for seed in spec.seeds for model in spec.models for cell in _crossed(spec, model, seed)]
    names = [cell.folder for cell in found]
    twice = next((cell for cell in found if names.count(cell.folder) > 1), None)
    if twice is not None:
        raise UserError(f"models: {twice.model} is there twice: give each once")
    for cell in found:
        proxy_config(spec, cell, vocabulary)
    return found


def _crossed(spec: ProxySpec, model: Model, seed: int) -> Iterator[Cell]:
    if model.mixer not in pattern_names():
        raise UserError(f"no mixer to train is called {model.mixer!r}; {nearest(model.mixer, pattern_names(), what='mixers')}")
    mixer, own, _ = pattern_parts(model.mixer)
    if model.slots and mixer not in ("nha", "gsa"):
        raise UserError(f"models: mixer {model.mixer} has no slots: leave slots out")
    # transformer++ is told apart from swa by its window alone, so none can be set there.
    if not (mixer_class(mixer).has_window and own is not None):
        given = [name for name in ("windows", "window_jitter", "test_windows") if getattr(model, name)]
        if given:
            raise UserError(f"models: mixer {model.mixer} has no window to set: leave {', '.join(given)} out")
    rate, jitter, moved = model.learning_rate or spec.learning_rate, tuple(model.window_jitter), tuple(model.test_windows)
    for window, slots, options in product(model.windows or [OWN], model.slots or [None], model.options):
        yield Cell(model.mixer, window, slots, tuple(sorted(options.items())), jitter, moved, rate, seed)


def proxy_config(spec: ProxySpec, cell: Cell, vocabulary: int) -> NHAConfig:
    """The model of a cell. Raises UserError, naming it, where there is none."""
    from models.tokenizer import BOS, EOS, PAD

    sizes = spec.sizes.model_dump(exclude_none=True) | ({} if cell.slots is None else {"num_slots": cell.slots})
    sizes |= {"vocab_size": vocabulary, "max_position_embeddings": spec.text.length * max(spec.evaluate.lengths)}
    sizes |= {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS} if spec.tokenizer == "bytes" else {}
    changes: dict[str, Any] = {} if cell.window == OWN else {"window": _tokens(cell.window)}
    mixer, *_ = pattern_parts(cell.mixer)
    chosen = sizes.get("mixer_options", {})
    sizes["mixer_options"] = chosen | {mixer: chosen.get(mixer, {}) | dict(cell.options)}
    try:
        config = pattern_config(cell.mixer, sizes, **changes)
        for window in (*cell.jitter, *cell.test_windows):
            pattern_config(cell.mixer, sizes, window=_tokens(window))
        with torch.device("meta"):
            # Mixers refuse options when they are built.
            for layer, mixer in enumerate(config.mixers):
                mixer_class(mixer)(config, layer)
    except ValueError as problem:
        raise UserError(f"models: {cell.model} cannot be made: {problem}") from problem
    return config


def build(spec: ProxySpec, cell: Cell, vocabulary: int) -> NHAForCausalLM:
    """The cell's model, its weights drawn by the cell's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        return NHAForCausalLM(proxy_config(spec, cell, vocabulary))


def moved_layers(model: NHAForCausalLM) -> list[int]:
    """The layers whose window a cell sets; a hybrid's full ones stay full."""
    has = [layer for layer, each in enumerate(model.decoder_layers) if each.self_attn.has_window]
    return [layer for layer in has if model.config.windows[layer] is not None] or has


def set_windows(model: NHAForCausalLM, layers: list[int], window: int | str) -> None:
    model.set_window(_tokens(window), layers=layers)


def _tokens(window: int | str) -> int | None:
    return None if window == "full" else int(window)


def trained_window(model_windows: list[int | None], cell: Cell) -> int | str:
    """As tables write it: tokens, `full`, `drawn`, or `none`. model_windows: of the model as it is made."""
    if cell.jitter:
        return DRAWN
    if cell.window != OWN:
        return cell.window
    if model_windows[0] is not None:
        return model_windows[0]
    return "full" if cell.mixer == "transformer++" else "none"
