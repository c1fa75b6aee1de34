"""Figures of a setting on one split of text: KL from the full model, and the recall probe. Nothing is evaluated twice.

What is found goes into the journal at once, under a key of the weights, the tokens, the windows and the precision, so that a
later run with the same four reads it there. Per sequence and per question, as tests and errors need them.

    evaluator = Evaluator(loaded.model, identity, ids, texts, known)
    evaluator.kl((64, None, None))          # [N] nats a token, a figure a sequence
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from models import NHAForCausalLM
from nha_eval.search.divergence import Divergence
from nha_eval.search.forward import Forward
from nha_eval.search.probe import Answers, ProbeText, score
from nha_eval.search.windows import Windows
from nha_eval.stats import clustered_stderr


class OutOfTime(Exception):
    """What is left of the time limit is too little for another evaluation."""


@dataclass
class Deadline:
    """`limit` seconds from now, None for no end, of which `reserved` are kept for what comes after."""

    limit: float | None
    reserved: float = 0.0

    def __post_init__(self) -> None:
        self._began = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def check(self, wanted: float) -> None:
        """Raise OutOfTime unless `wanted` seconds are left beside the reserved ones."""
        if self.limit is not None and self.spent + wanted + self.reserved > self.limit:
            raise OutOfTime

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """No limit inside: for what a search must not end without."""
        limit, self.limit = self.limit, None
        try:
            yield
        finally:
            self.limit = limit

    def reserve(self, seconds: float) -> None:
        """Keep that many seconds back, instead of those before."""
        self.reserved = seconds


class Memory:
    """Figures by key: what a journal held, and what is added, which `note` writes down."""

    def __init__(self, known: dict[str, Any] | None = None, note: Callable[[dict[str, Any]], None] = lambda found: None):
        self._known, self._note = dict(known or {}), note
        self.fresh = 0  # figures added since

    def get(self, key: str) -> Any:
        """The figures, or None."""
        return self._known.get(key)

    def add(self, key: str, figures: Any) -> None:
        """Keep the figures, and write them down."""
        self._known[key] = figures
        self.fresh += 1
        self._note({key: figures})


def key_of(kind: str, identity: Any, windows: Any) -> str:
    """32 hex digits of what a figure is of."""
    return hashlib.sha256(json.dumps([kind, identity, windows], sort_keys=True).encode()).hexdigest()[:32]


class Evaluator:
    """Evaluates settings of `model` on `ids` [N, T] and the probe's `texts`.

    identity: plain data that stands for weights and precision; `batch` sequences are run together. Before what is not known yet
    is evaluated, `deadline` is asked for as many seconds as the longest such evaluation took, and raises OutOfTime.
    """

    def __init__(
        self,
        model: NHAForCausalLM,
        identity: Any,
        ids: Tensor,
        texts: list[ProbeText],
        memory: Memory,
        *,
        batch: int = 1,
        deadline: Deadline | None = None,
    ):
        self.model, self.memory, self.texts = model, memory, texts
        self.deadline = deadline or Deadline(None)
        self.full: Windows = (None,) * len(model.decoder_layers)
        self._ids = ids
        device = next(model.parameters()).device
        self.on_gpu = device.type == "cuda"
        self._text = Forward(model, list(ids.to(device).split(batch)))
        self._probe = Forward(model, [text.ids[None].to(device) for text in texts])
        tokens = hashlib.sha256(ids.numpy().tobytes()).hexdigest()
        asked = hashlib.sha256(json.dumps([[t.ids.tolist(), t.answers] for t in texts]).encode()).hexdigest()
        self._keys = {"kl": [identity, list(ids.shape), tokens, batch], "probe": [identity, asked]}
        self._divergence: Divergence | None = None
        self._seconds = {"kl": 0.0, "probe": 0.0}
        self.kl_of: dict[Windows, np.ndarray] = {}
        self.answers_of: dict[Windows, Answers] = {}

    @property
    def contexts(self) -> list[str]:
        """The context of each question of the probe."""
        return [text.context for text in self.texts for _ in text.answers]

    def kl(self, windows: Windows) -> np.ndarray:
        """Mean KL(full || setting) per token of each sequence, [N], in nats. Raises OutOfTime."""
        if windows not in self.kl_of:
            # Of the full model it is 0 by definition; running it would say no more.
            known = [0.0] * len(self._ids) if windows == self.full else None
            self.kl_of[windows] = np.array(known or self._known("kl", windows, self._find_kl), dtype=float)
        return self.kl_of[windows]

    def answers(self, windows: Windows) -> Answers:
        """The probe's answers, in the order of `contexts`. Raises OutOfTime."""
        if windows not in self.answers_of:
            loss, right = self._known("probe", windows, self._find_answers)
            self.answers_of[windows] = Answers(np.array(loss, dtype=float), np.array(right, dtype=float))
        return self.answers_of[windows]

    def keep(self, windows: Windows) -> None:
        """Later settings are like this one: keep its hidden states, where it was the last one evaluated."""
        self._text.keep(windows)
        self._probe.keep(windows)

    def warm(self, settings: Iterable[Windows]) -> None:
        """Run each setting once, measuring nothing: what a GPU compiles or loads at its first use would else stand in the
        longest evaluation, by which the time limit is kept."""
        for windows in settings:
            self._text.run(windows)
            if self.texts:
                score(self.model, self.texts, self._probe.run(windows))

    def seconds(self, kind: str) -> float:
        """The longest evaluation of this kind ("kl" or "probe"), the full model's pass among them; 0 before the first."""
        return self._seconds[kind]

    def knows(self, kind: str, windows: Windows) -> bool:
        """Whether the figures of this kind are there without a run."""
        return (kind == "kl" and windows == self.full) or self.memory.get(key_of(kind, self._keys[kind], windows)) is not None

    def row(self, windows: Windows) -> dict[str, Any]:
        """What is known of the setting: means and standard errors, clustered by sequence and by context; None where unknown."""
        kl, answers = self.kl_of.get(windows), self.answers_of.get(windows)
        found: dict[str, Any] = {"kl": None, "kl_stderr": None, "answer_loss": None, "answer_loss_stderr": None, "recall": None}
        if kl is not None:
            found |= {"kl": float(kl.mean()), "kl_stderr": clustered_stderr(kl, range(len(kl)))}
        if answers is not None and len(answers.loss):
            found |= {"answer_loss": float(answers.loss.mean()), "recall": float(answers.right.mean())}
            found["answer_loss_stderr"] = clustered_stderr(answers.loss, self.contexts)
        return found

    def _known(self, kind: str, windows: Windows, find: Callable[[Windows], Any]) -> Any:
        key = key_of(kind, self._keys[kind], windows)
        figures = self.memory.get(key)
        if figures is None:
            if kind == "kl":
                self.prepare()
            self.deadline.check(self._seconds[kind])
            began = time.monotonic()
            figures = find(windows)
            self._seconds[kind] = max(self._seconds[kind], time.monotonic() - began)
            self.memory.add(key, figures)
        return figures

    def _find_kl(self, windows: Windows) -> list[float]:
        found = self._divergence.of(self._text.run(windows))
        if not np.isfinite(found).all():
            raise ValueError(f"windows {windows}: the KL divergence is not finite in this precision; give another --dtype")
        return found.tolist()

    def prepare(self) -> None:
        """Run the full model over the text, which all settings are held against."""
        if self._divergence is None:
            began = time.monotonic()
            self._divergence = Divergence(self.model, self._text.run(self.full))
            self._text.keep(self.full)
            self._seconds["kl"] = max(self._seconds["kl"], time.monotonic() - began)

    def _find_answers(self, windows: Windows) -> tuple[list[float], list[float]]:
        found = score(self.model, self.texts, self._probe.run(windows))
        if windows == self.full:
            self._probe.keep(windows)
        return found.loss.tolist(), found.right.tolist()
