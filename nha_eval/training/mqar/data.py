"""MQAR sequences in the order of a training: whole batches of one kind, in an order that depends on the seed alone.

data = Batches(spec, task, seed=1); data.steps, data[0]
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nha_eval.training.mqar.spec import MqarSpec, Task
from tasks.synthetic.mqar import NOT_ASKED, mqar, split_rng


@lru_cache(maxsize=16)
def sequences(
    split: str, examples: int, length: int, pairs: int, vocabulary: int, power: float, random_filler: bool, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(inputs [N, length], places [N, pairs], answers [N, pairs]) of a split: where is asked, ascending, and what is right.

    16 bits an element where the vocabulary allows it: a worker holds its training set whole.
    """
    rng = split_rng(seed, split, length, pairs)
    law = {"vocabulary": vocabulary, "power": power, "random_filler": random_filler}
    inputs, labels = mqar(rng, examples, length=length, pairs=pairs, **law)
    places = np.nonzero(labels != NOT_ASKED)[1].reshape(examples, pairs)
    answers = np.take_along_axis(labels, places, 1)
    small = np.int16 if vocabulary <= 2**15 else np.int32
    return inputs.astype(small), places.astype(np.int32), answers.astype(small)


def split_of(spec: MqarSpec, split: str, kind, examples: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`sequences` of a kind (its length and pairs) as the spec has them."""
    settings = spec.vocabulary, spec.power, spec.random_filler, spec.data_seed
    return sequences(split, examples, kind.length, kind.pairs, *settings)


NAMES = "input_ids", "places", "answers"


def tensors(parts: tuple[np.ndarray, ...]) -> dict[str, Tensor]:
    """A batch as `Recall` takes it."""
    return {name: torch.from_numpy(part.astype(np.int64)) for name, part in zip(NAMES, parts, strict=True)}


def split_on(device: torch.device, spec: MqarSpec, split: str, kind, examples: int) -> dict[str, Tensor]:
    """`split_of` on a device, by the names that `Recall` takes; in as few bits, so that `long` makes a batch of a part."""
    settings = spec.vocabulary, spec.power, spec.random_filler, spec.data_seed
    return _on(device, split, examples, kind.length, kind.pairs, *settings)


@lru_cache(maxsize=32)
def _on(device: torch.device, *settings: Any) -> dict[str, Tensor]:
    return {name: torch.from_numpy(part).to(device) for name, part in zip(NAMES, sequences(*settings), strict=True)}


class Batches(Dataset):
    """Item i is row i % batch of step i // batch. An epoch goes through each kind's whole batches, rows and batches shuffled
    anew by (seed, epoch); rows that fill no batch are left out of it. Takes the indices of a step at once.
    """

    def __init__(self, spec: MqarSpec, task: Task, seed: int):
        self.batch, self.seed = spec.batch, seed
        self.kinds = [split_of(spec, "train", kind, kind.examples) for kind in task.train]
        self.of_epoch = sum(len(inputs) // self.batch for inputs, *_ in self.kinds)
        self.steps = self.of_epoch * spec.epochs
        self._order: tuple[int, list[tuple[int, np.ndarray]]] | None = None

    def __len__(self) -> int:
        return self.steps * self.batch

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: rows[0] for name, rows in self.__getitems__([i]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        step = indices[0] // self.batch
        assert all(i // self.batch == step for i in indices), "indices of several steps"
        kind, rows = self._epoch(step // self.of_epoch)[step % self.of_epoch]
        chosen = rows[[i % self.batch for i in indices]]
        return tensors(tuple(part[chosen] for part in self.kinds[kind]))

    def order(self) -> tuple[list[int], np.ndarray]:
        """(the kind of each step's batch [steps], its rows [steps, batch] int32) of the whole training."""
        every = [batch for epoch in range(self.steps // self.of_epoch) for batch in self._epoch(epoch)]
        return [kind for kind, _ in every], np.stack([rows for _, rows in every]).astype(np.int32)

    def _epoch(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """(kind, its rows [batch]) of each step."""
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            found = []
            for kind, (inputs, *_) in enumerate(self.kinds):
                whole = len(inputs) // self.batch
                rows = rng.permutation(len(inputs))[: whole * self.batch].reshape(whole, self.batch)
                found += [(kind, part) for part in rows]
            self._order = epoch, [found[i] for i in rng.permutation(len(found))]
        return self._order[1]
