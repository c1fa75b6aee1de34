"""What a setting costs, as a sum over layers: bytes of state, or milliseconds of latency.

Bytes are the model's own count (`state_bytes`) and exact. Latency is measured and the sum is a model of it: with all windows
full, and with those of the layers of one mixer at each candidate window; layers of one mixer have the same shapes, so each is
given an equal part of the difference. `run.search` holds the model against a measurement of each setting that it ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from models import NHAForCausalLM
from nha_eval.costs import CostMeter
from nha_eval.search.evaluator import Deadline, Memory, key_of
from nha_eval.search.windows import Windows

MEASURING = {"repeats": 7, "decode_tokens": 24, "seconds": 8.0, "batch": 1}


@dataclass(frozen=True)
class Spending:
    """`layer(i, window)` is layer i's part; `fixed` what does not depend on windows; `has_window` a flag a layer."""

    unit: Literal["bytes", "ms"]
    layer: Callable[[int, int | None], float]
    fixed: float
    has_window: tuple[bool, ...]

    @property
    def layers(self) -> list[int]:
        """Those that have a window."""
        return [i for i, has in enumerate(self.has_window) if has]

    def of(self, windows: Windows) -> float:
        """The whole setting's."""
        return self.fixed + sum(self.layer(i, windows[i]) for i in self.layers)

    @cached_property
    def full(self) -> float:
        """With all windows full."""
        return self.of((None,) * len(self.has_window))

    def least(self, windows: Sequence[int | None]) -> float:
        """With each layer at the cheapest of these windows."""
        return self.fixed + sum(min(self.layer(i, window) for window in windows) for i in self.layers)


def state(model: NHAForCausalLM, context: int) -> Spending:
    """Bytes of state after `context` tokens of one sequence, in the model's dtype."""
    has_window = tuple(layer.self_attn.has_window for layer in model.decoder_layers)
    itemsize = torch.empty((), dtype=model.dtype).element_size()
    known: dict[tuple[int, int | None], int] = {}

    def layer(i: int, window: int | None) -> int:
        if (i, window) not in known:
            mixer = model.decoder_layers[i].self_attn
            held = mixer.window
            mixer.window = window
            known[i, window] = mixer.state_bytes(1, context, itemsize)
            mixer.window = held
        return known[i, window]

    without = [each.self_attn for each, has in zip(model.decoder_layers, has_window, strict=True) if not has]
    return Spending("bytes", layer, sum(mixer.state_bytes(1, context, itemsize) for mixer in without), has_window)


class Latency:
    """Measures a phase ("prefill" or "decode") at `context` tokens, one sequence; what was measured is not measured again."""

    def __init__(
        self, model: NHAForCausalLM, identity: Any, phase: str, context: int, seed: int, memory: Memory, deadline: Deadline
    ):
        self.model, self.memory, self.deadline = model, memory, deadline
        self._point = {"phase": phase, "length": context, "seed": seed, **MEASURING}
        self._identity = [identity, self._point]
        self._meter = CostMeter(model)

    def measure(self, windows: Windows) -> float:
        """Median milliseconds of the setting. Raises OutOfTime."""
        key = key_of("latency", self._identity, windows)
        if self.memory.get(key) is None:
            self.deadline.check(MEASURING["seconds"])
            for i, window in enumerate(windows):
                if self.model.config.windows[i] != window:
                    self.model.set_window(window, layers=[i])
            self._meter.forget()
            self.memory.add(key, self._meter.measure(**self._point)["latency_ms"])
        return self.memory.get(key)

    def spending(self, windows: Sequence[int | None]) -> Spending:
        """The additive model over these candidate windows."""
        mixers = self.model.config.mixers
        has_window = tuple(layer.self_attn.has_window for layer in self.model.decoder_layers)
        full: Windows = (None,) * len(mixers)
        at_full = self.measure(full)
        part: dict[tuple[str, int | None], float] = {}
        for mixer in sorted({mixer for mixer, has in zip(mixers, has_window, strict=True) if has}):
            alike = [has and each == mixer for each, has in zip(mixers, has_window, strict=True)]
            for window in windows:
                setting = tuple(window if same else None for same in alike)
                change = 0.0 if window is None else self.measure(setting) - at_full
                part[mixer, window] = change / sum(alike)
        return Spending("ms", lambda i, window: part[mixers[i], window], at_full, has_window)
