"""Mean KL divergence per token of a setting from the full model, in nats, over the whole vocabulary.

    KL(full || setting) at a position = sum over tokens of p (log p - log q)

with p and q from log-softmax in fp32, some positions at a time, so that memory does not grow with the text.

Legend: N sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models import NHAForCausalLM

CHUNK = 2**24  # logits at a time
MOST_KEPT = 2**30  # bytes of the full model's log-probabilities


class Divergence:
    """From the full model's hidden states `full`, [B, T, hidden] a batch as the last norm reads them, to each sequence's KL.

    The full model's log-probabilities are kept where they take at most `most_kept` bytes, else made again each time.
    """

    def __init__(self, model: NHAForCausalLM, full: list[Tensor], *, chunk: int = CHUNK, most_kept: int = MOST_KEPT):
        self.model, self.full = model, full
        self._positions = max(1, chunk // model.config.vocab_size)
        tokens = sum(hidden.shape[0] * hidden.shape[1] for hidden in full)
        self._kept: list[Tensor] | None = None
        if tokens * model.config.vocab_size * 4 <= most_kept:
            self._kept = [log_probabilities(model, part) for part in self._parts(full)]

    @torch.inference_mode()
    def of(self, hidden: list[Tensor]) -> np.ndarray:
        """Mean KL of each sequence, [N] float64, of a setting's hidden states in the shapes of `full`."""
        each = []
        for number, (part, full) in enumerate(zip(self._parts(hidden), self._parts(self.full), strict=True)):
            p = log_probabilities(self.model, full) if self._kept is None else self._kept[number]
            q = log_probabilities(self.model, part)
            each.append((p.exp() * (p - q)).sum(-1).double().cpu())
        return torch.cat(each).view(-1, self.full[0].shape[1]).mean(-1).numpy()

    def _parts(self, hidden: list[Tensor]) -> Iterator[Tensor]:
        """Runs of positions [n, hidden], sequence after sequence."""
        for batch in hidden:
            yield from batch.flatten(0, 1).split(self._positions)


@torch.inference_mode()
def log_probabilities(model: NHAForCausalLM, hidden: Tensor) -> Tensor:
    """fp32 [n, V] of hidden states [n, hidden] as the last norm reads them."""
    return model.lm_head(model.model.norm(hidden)).float().log_softmax(-1)
