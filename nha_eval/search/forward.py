"""Hidden states of fixed texts under one setting of windows after another, doing over only what a setting changes.

Below the first layer that has another window, hidden states are those of the setting before, to the bit. So the states between
layers are kept of a base setting and of the last one run, and each run sets out from the longest beginning that it shares with
either: a sweep that narrows one layer at a time costs half of whole passes.

    forward = Forward(model, [ids])                 # ids LongTensor [B, T]
    hidden = forward.run((64, None, None))          # [[B, T, hidden]]

Legend: B rows, T tokens, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models import NHAForCausalLM
from nha_eval.search.windows import Windows

MOST_KEPT = 2 * 2**30  # bytes of states between layers, of both settings together


@dataclass
class _Kept:
    """states[i]: what layer i reads, a tensor a batch."""

    windows: Windows
    states: dict[int, list[Tensor]]

    def start(self, windows: Windows) -> int:
        """The last layer whose input is kept and the same at `windows`; 0 where there is none."""
        shared = next((i for i, pair in enumerate(zip(self.windows, windows, strict=True)) if pair[0] != pair[1]), len(windows))
        return max((i for i in self.states if i <= shared), default=0)


class Forward:
    """Runs a model over `batches`, LongTensors [B, T] without pads, on its device.

    `most_kept`: bytes of states between layers; where those of all layers are more, those of every second are kept, or fewer.
    Attribute `layers_run` counts layers times batches, for who wants to know what was saved.
    """

    def __init__(self, model: NHAForCausalLM, batches: list[Tensor], most_kept: int = MOST_KEPT):
        self.model, self.batches = model, batches
        layers, width = len(model.decoder_layers), model.config.hidden_size
        a_layer = sum(batch.numel() for batch in batches) * width * torch.empty((), dtype=model.dtype).element_size()
        # Room for the base and the last setting.
        self._stride = max(1, math.ceil(2 * a_layer * layers / max(1, most_kept)))
        self._base: _Kept | None = None
        self._last: _Kept | None = None
        self.layers_run = 0

    @torch.inference_mode()
    def run(self, windows: Windows) -> list[Tensor]:
        """What the last norm reads, [B, T, hidden] a batch."""
        self._set(windows)
        layers = len(windows)
        known = [kept for kept in (self._base, self._last) if kept is not None]
        kept = max(known, key=lambda each: each.start(windows), default=None)
        start = 0 if kept is None else kept.start(windows)
        stops = [*range(start + self._stride - start % self._stride, layers, self._stride), layers]
        states = {i: held for i, held in kept.states.items() if i <= start} if kept else {}
        found: dict[int, list[Tensor]] = {stop: [] for stop in stops}
        for number, ids in enumerate(self.batches):
            hidden = kept.states[start][number] if start else self.model.model.embed_tokens(ids)
            begin = start
            for stop in stops:
                hidden = self.model.model.run_layers(hidden, begin, stop)
                found[stop].append(hidden)
                self.layers_run += stop - begin
                begin = stop
        ends = found.pop(layers)
        self._last = _Kept(windows, {**states, **found})
        return ends

    def keep(self, windows: Windows) -> None:
        """Make the setting the base from which later ones set out, if it was the last one run; else the base stays."""
        if self._last is not None and self._last.windows == windows:
            self._base = self._last

    def _set(self, windows: Windows) -> None:
        changed: dict[int | None, list[int]] = {}
        for layer, (now, wanted) in enumerate(zip(self.model.config.windows, windows, strict=True)):
            if now != wanted:
                changed.setdefault(wanted, []).append(layer)
        for window, layers in changed.items():
            self.model.set_window(window, layers=layers)
