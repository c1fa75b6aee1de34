"""How far a hybrid is from its base on text that it is not trained on: KL and perplexity, by position.

measured = heldout(lambda ids: figures(student, teacher, ids), text.heldout(2048, 32), device); measured.kl, measured.perplexity
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.modeling import NHAForCausalLM

ROWS = 4096  # logits held at once
TOKENS = 16384  # of sequences that go through the models together


@dataclass(frozen=True)
class Measured:
    """kl, nll: means over tokens, in nats, with standard errors over sequences (NaN of one sequence); perplexities of both.

    positions: (first, last, kl, nll, nll of the teacher) of spans of positions, each twice as long as what is before it; a
    position is that of the token a prediction is made from.
    """

    tokens: int
    kl: float
    kl_stderr: float
    nll: float
    nll_stderr: float
    teacher_nll: float
    positions: list[tuple[int, int, float, float, float]]

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nll, 700.0))

    @property
    def teacher_perplexity(self) -> float:
        return math.exp(min(self.teacher_nll, 700.0))


def heldout(measure: Callable[[Tensor], Tensor], sequences: Iterable[dict[str, Tensor]], device: torch.device) -> Measured:
    """`measure(input_ids [B, T])` over the sequences ({"input_ids": [T]} each, all of one length), as `figures` gives them."""
    ids = torch.stack([item["input_ids"] for item in sequences])
    with torch.no_grad():
        rows = [measure(some.to(device)).double().cpu() for some in ids.split(max(1, TOKENS // ids.shape[1]))]
    kl, nll, taught = torch.cat(rows, 1)
    return Measured(
        tokens=kl.numel(),
        kl=kl.mean().item(),
        kl_stderr=_stderr(kl),
        nll=nll.mean().item(),
        nll_stderr=_stderr(nll),
        teacher_nll=taught.mean().item(),
        positions=[
            (first, last, *(part[:, first : last + 1].mean().item() for part in (kl, nll, taught)))
            for first, last in spans(kl.shape[1])
        ],
    )


def figures(student: NHAForCausalLM, teacher: NHAForCausalLM, ids: Tensor) -> Tensor:
    """KL(teacher || student), and both models' losses, of the second token and on: ids [B, T] -> [3, B, T - 1], nats, fp32."""
    hidden = [model.model(ids, use_cache=False).last_hidden_state[:, :-1] for model in (student, teacher)]
    labels = ids[:, 1:].flatten()
    found = []
    pieces = zip(*(part.flatten(0, 1).split(ROWS) for part in hidden), labels.split(ROWS), strict=True)
    for mine, theirs, label in pieces:
        own, wanted = (
            F.log_softmax(model.lm_head(part).float(), -1)
            for model, part in zip((student, teacher), (mine, theirs), strict=True)
        )
        kl = F.kl_div(own, wanted, reduction="none", log_target=True).sum(-1)
        found.append(torch.stack([kl, *(-logp.gather(-1, label[:, None])[:, 0] for logp in (own, wanted))]))
    return torch.cat(found, 1).unflatten(1, (ids.shape[0], -1))


def spans(length: int) -> list[tuple[int, int]]:
    """Spans of positions, each twice as long as all before it: (0, 63), (64, 127), (128, 255), ... up to `length`."""
    bounds = [0]
    end = 64
    while end < length:
        bounds.append(end)
        end *= 2
    return [(first, last - 1) for first, last in zip(bounds, [*bounds[1:], length], strict=True)]


def _stderr(values: Tensor) -> float:
    """Of the mean over tokens, which share a sequence."""
    means = values.mean(1)
    return (means.std() / math.sqrt(len(means))).item()
