"""Perplexity of one model on the measured text, kept by document so that intervals can be drawn over documents later.

    measure(model, data, spec, window="own", device, dtype) -> [{"length": 1024, "documents": {...}, ...}, ...]

At every length the text is cut into blocks of so many tokens, across the ends of documents as in training; the tokens that are
counted are the same at all lengths (the first of each shortest block, which nothing foretells there, is never counted).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from models.modeling import NHAForCausalLM
from nha_eval.hybridize.heldout import spans
from nha_eval.training.language import NextToken
from nha_eval.training.proxies.bigrams import repeated
from nha_eval.training.proxies.data import Data
from nha_eval.training.proxies.spec import ProxySpec

AT_ONCE = {"cuda": 65_536, "cpu": 4096}  # tokens of one forward pass
# Bounds of the counts of bigrams in training by which tokens are told apart, each the first of its class.
COUNTS = (0, 1, 4, 16, 64, 256, 1024)


def measure(
    model: NHAForCausalLM,
    data: Data,
    spec: ProxySpec,
    window: int | str,
    device: torch.device,
    dtype: torch.dtype,
    lengths: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """A record a length (of `lengths`, times the text's; None: the spec's): losses in nats, as sums over the tokens of each
    document (`all` and `hits`, with their numbers), of each span of positions, and of each class of bigrams.
    """
    was_training = model.training
    model.eval()
    base = spec.text.length
    found = []
    for times in sorted(set(lengths or spec.evaluate.lengths)):
        blocks = np.asarray(data.tokens).reshape(-1, base * times)
        nll = _losses(model, blocks, device, dtype).ravel()
        seen = repeated(blocks, data.vocabulary).ravel()
        places = np.arange(len(nll))
        counted = places % base != 0
        hits = counted & seen & (data.bigrams <= spec.evaluate.rare)
        at = places % (base * times)
        found.append(
            {
                "window": window,
                "length": base * times,
                "documents": _by_document(nll, data.documents, counted, hits),
                "positions": [
                    {"first": first, "last": last, **_sum(nll, counted & (at >= first) & (at <= last))}
                    for first, last in spans(base * times)
                ],
                "bigrams": [
                    {"seen": bool(met), "first": low, "last": high - 1 if high else None, **_sum(nll, chosen)}
                    for met in (True, False)
                    for low, high in zip(COUNTS, (*COUNTS[1:], 0), strict=True)
                    if (chosen := counted & (seen == met) & _within(data.bigrams, low, high)).any()
                ],
            }
        )
    model.train(was_training)
    return found


@torch.no_grad()
def _losses(model: NHAForCausalLM, blocks: np.ndarray, device: torch.device, dtype: torch.dtype) -> np.ndarray:
    """[B, T] fp64 nats; 0 at each block's first token."""
    objective = NextToken(model)
    rows = max(1, AT_ONCE[device.type] // blocks.shape[1])
    found = []
    for part, done in equal_parts(len(blocks), rows):
        ids = torch.from_numpy(blocks[part].astype(np.int64)).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found.append(objective(ids, each=True)[done:].float())
    losses = torch.cat(found).double().cpu().numpy()
    return np.concatenate([np.zeros((len(losses), 1)), losses], 1)


def equal_parts(count: int, rows: int) -> Iterator[tuple[slice, int]]:
    """(rows of a part, how many of them the part before had) of `count`, all of one size: flash-linear-attention tunes its
    kernels anew for each number of rows."""
    for begin in range(0, count, rows):
        first = max(0, min(begin, count - rows))
        yield slice(first, first + rows), begin - first


def _by_document(nll: np.ndarray, documents: np.ndarray, counted: np.ndarray, hits: np.ndarray) -> dict[str, list[float]]:
    many = int(documents[-1]) + 1
    found: dict[str, list[float]] = {}
    for name, chosen in (("all", counted), ("hits", hits)):
        sums = np.bincount(documents[chosen], weights=nll[chosen], minlength=many)
        found[name] = [round(float(x), 4) for x in sums]
        found[f"{name}_tokens"] = np.bincount(documents[chosen], minlength=many).tolist()
    return found


def _sum(nll: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    return {"nll": round(float(nll[chosen].sum()), 4), "tokens": int(chosen.sum())}


def _within(counts: np.ndarray, low: int, high: int) -> np.ndarray:
    return (counts >= low) & (counts < high) if high else counts >= low
