"""A case of `bench model` made ready: the one call that memory and timing share, for each phase.

with prefill(model, family, batch=1, length=2048, draw=draw) as work:
    work.call()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LEARNING_RATE = 1e-5


@dataclass
class Work:
    """`call()` does the whole thing once for `tokens` tokens, and gives what has to be finite: logits, or the loss. `held()`
    are the cache's bytes after a call, None without a cache.
    """

    call: Callable[[], Tensor]
    tokens: int
    held: Callable[[], int | None]


@contextmanager
def prefill(model: nn.Module, family: Any, batch: int, length: int, draw: Any) -> Iterator[Work]:
    """Logits of the last position, and a cache."""
    ids = draw.tokens(model.config.vocab_size, batch, length)
    kept: dict[str, Any] = {}

    def call() -> Tensor:
        # The old cache goes first: two at once would show in the peak.
        kept.clear()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        kept["cache"] = getattr(out, family.CACHE)
        return out.logits

    with torch.no_grad():
        yield Work(call, batch * length, lambda: family.cache_bytes(kept["cache"]))


@contextmanager
def decode(model: nn.Module, family: Any, batch: int, length: int, draw: Any) -> Iterator[Work]:
    """One token for each sequence, at the context of a cache that stays as it is."""
    with torch.no_grad():
        cache = family.filled_cache(model, batch, length, draw)
        given = {"input_ids": draw.tokens(model.config.vocab_size, batch, 1), family.CACHE: cache}

        def call() -> Tensor:
            return model(**given, use_cache=True, logits_to_keep=1).logits

        yield Work(call, batch, lambda: family.cache_bytes(cache))


@contextmanager
def train(model: nn.Module, checkpointing: bool, batch: int, length: int, draw: Any) -> Iterator[Work]:
    """Forward, backward and a step of AdamW, whose states are made in the first call."""
    ids = draw.tokens(model.config.vocab_size, batch, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=ids.is_cuda, capturable=ids.is_cuda)
    model.train()
    if checkpointing:
        _checkpointing(model, "enable")

    def call() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return loss.detach()

    try:
        yield Work(call, batch * length, lambda: None)
    finally:
        model.eval()
        if checkpointing:
            _checkpointing(model, "disable")
        optimizer.zero_grad(set_to_none=True)


def _checkpointing(model: nn.Module, change: str) -> None:
    # Transformers 5.24 calls it by another name, and warns of the old one.
    for name in (f"activation_checkpointing_{change}", f"gradient_checkpointing_{change}"):
        if hasattr(model, name):
            getattr(model, name)()
            return
