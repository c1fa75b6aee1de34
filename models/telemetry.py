"""Where the attention of `nha` layers goes: the share of the softmax on the slots, by layer, head and position, while it runs.

    with torch.no_grad(), observed_shares(model) as shares:
        model(input_ids)
    shares.table()

A layer's log-sum-exps of both parts are reduced as they come, so that nothing as long as a sequence is kept. They come
from a call of the operator beside the one whose output goes on: the logits are bitwise those of a model that nobody observes.

Legend: B rows, T tokens, HQ query heads, N packed sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

BUCKETS = 32  # powers of two that a position in 31 bits can reach


def slot_share(slots: Tensor, window: Tensor) -> Tensor:
    """sigmoid(slots - window): the slots' share of the one softmax over both (arXiv 2510.07019), of log-sum-exps, any shape."""
    return torch.sigmoid(slots - window)


class SlotShares:
    """Sums over the queries whose slots hold something; queries before that have no share and are not counted."""

    def __init__(self) -> None:
        self._heads: dict[int, Tensor] = {}  # layer -> [HQ] fp64, on the CPU
        self._positions: dict[int, Tensor] = {}  # layer -> [2, BUCKETS] fp64: sums of the mean over heads, and queries

    @torch.no_grad()
    def add(self, layer: int, lse: tuple[Tensor, Tensor], bounds: Tensor | None, seen: Tensor | None) -> None:
        """Counts the queries of one call of a layer.

        lse: (slots, window), each [B, T, HQ], -inf where that part is empty. bounds: [N + 1] of packed sequences, B then 1.
        seen: tokens before the call's, [B] or [N]; None: none.
        """
        slots, window = lse
        share = slot_share(slots, window)
        held = slots.isfinite().all(-1)
        share = torch.where(held[..., None], share, 0.0)
        # The first bucket is position 1, the next 2 and 3, then 4 to 7, and so on.
        edges = 2 ** torch.arange(1, BUCKETS, device=share.device)
        places = _positions(share.shape[:2], bounds, seen, share.device).flatten()
        bucket = torch.bucketize(places, edges, right=True)
        both = torch.stack([share.mean(-1), held.to(share.dtype)]).flatten(1)
        by_position = both.new_zeros(2, BUCKETS).index_add_(1, bucket, both)
        for sums, found in ((self._heads, share.sum((0, 1))), (self._positions, by_position)):
            # To the CPU first: some devices have no fp64.
            found = found.cpu().double()
            sums[layer] = sums[layer] + found if layer in sums else found

    def table(self) -> list[dict[str, Any]]:
        """A row for each layer that had such queries: layer, n (queries), heads (the mean share of each query head) and
        positions, each [first, last, mean share over heads and queries, queries]; a sequence's first token is at position 1.
        """
        rows = []
        for layer in sorted(self._heads):
            shares, counts = self._positions[layer].tolist()
            n = round(sum(counts))
            if n:
                filled = [i for i, count in enumerate(counts) if count]
                positions = [[2**i, 2 ** (i + 1) - 1, shares[i] / counts[i], round(counts[i])] for i in filled]
                heads = (self._heads[layer] / n).tolist()
                rows.append({"layer": layer, "n": n, "heads": heads, "positions": positions})
        return rows


def observable_layers(model: nn.Module) -> list[nn.Module]:
    """The `nha` mixers that have a window: at None there are no slots."""
    from models.mixers.nha import Mixer

    return [module for module in model.modules() if isinstance(module, Mixer) and module.window is not None]


@contextmanager
def observed_shares(model: nn.Module) -> Iterator[SlotShares]:
    """Collects the shares of every `nha` layer of `model` in what runs inside the block, and leaves the model as it was, also
    after an error. Raises ValueError where the model is observed already.
    """
    layers = observable_layers(model)
    if any(layer.observer is not None for layer in layers):
        raise ValueError("the model's shares are observed already; wanted one observed_shares at a time")
    shares = SlotShares()
    try:
        for layer in layers:
            layer.observer = shares
        yield shares
    finally:
        for layer in layers:
            # The class says None; an attribute of its own would be left behind.
            vars(layer).pop("observer", None)


def _positions(shape: torch.Size, bounds: Tensor | None, seen: Tensor | None, device: torch.device) -> Tensor:
    """[B, T] int64: each query's place in its own sequence, from 1."""
    rows, time = shape
    at = torch.arange(1, time + 1, device=device).expand(rows, time)
    if bounds is None:
        return at if seen is None else at + seen[:, None]
    begins = bounds[:-1].long() if seen is None else bounds[:-1].long() - seen
    return at - torch.repeat_interleave(begins, bounds.diff().long(), output_size=time)
