"""What all models of a proxy spec read: the training tokens in their order, and the text they are measured on.

    data = prepare(spec, tokenizer, folder)        # made once, then read
    data.train[7], data.tokens[:100]

In the folder: `train.npy` [sequences, length], the very sequences that every model is trained on; `tokens.npy` [N], the text of
the split that is measured; `bigrams.npy` [N], how often in `train.npy` each of its tokens followed the one before it, counted
exactly; `about.json`, the record, with the SHA-256 of the first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nha_eval.errors import MachineError, UserError, is_disk_trouble
from nha_eval.journal import plain, write_atomic
from nha_eval.text import open_text
from nha_eval.text.showing import Bar
from nha_eval.training.proxies.bigrams import count_bigrams
from nha_eval.training.proxies.spec import ProxySpec

ABOUT = "about.json"


@dataclass(frozen=True)
class Data:
    """train [sequences, length]; tokens, bigrams, documents [N]: the measured text, counts, and the document of each token."""

    train: np.ndarray
    tokens: np.ndarray
    bigrams: np.ndarray
    documents: np.ndarray
    vocabulary: int
    separator: int
    about: dict[str, Any]


def prepare(spec: ProxySpec, tokenizer: Any, vocabulary: int, folder: Path) -> Data:
    """The data of a spec, made into the folder where it is not there. Raises UserError for text that is too short."""
    if not (folder / ABOUT).is_file():
        _make(spec, tokenizer, vocabulary, folder)
    return read(folder)


def read(folder: Path) -> Data:
    """What `prepare` left."""
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    train, tokens, bigrams = (
        np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("train", "tokens", "bigrams")
    )
    separator = about["separator"]
    documents = np.concatenate([[0], np.cumsum(tokens[:-1] == separator)])
    return Data(train, tokens, bigrams, documents, about["vocabulary"], separator, about)


def _make(spec: ProxySpec, tokenizer: Any, vocabulary: int, folder: Path) -> None:
    text = open_text(spec.text, tokenizer)
    length, count = spec.text.length, spec.steps * spec.batch
    longest = length * max(spec.evaluate.lengths)
    tokens = np.asarray(text.tokens.splits[spec.evaluate.split][: spec.evaluate.tokens])
    # The same tokens are measured at every length.
    tokens = tokens[: len(tokens) // longest * longest]
    if not len(tokens):
        raise UserError(
            f"the {spec.evaluate.split} text is shorter than {longest} tokens, the longest sequence that is to be measured: "
            "give more text, or smaller evaluate.lengths"
        )
    sequences = text.training(count)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        train = np.lib.format.open_memmap(folder / "train.npy", mode="w+", dtype=tokens.dtype, shape=(count, length))
        digest = hashlib.sha256()
        with Bar("training sequences", count) as bar:
            for i in range(count):
                train[i] = sequences[i]["input_ids"].numpy()
                digest.update(train[i].tobytes())
                bar.advance()
        train.flush()
        np.save(folder / "tokens.npy", tokens)
        np.save(folder / "bigrams.npy", count_bigrams(train, tokens, vocabulary))
        about = {
            "vocabulary": vocabulary,
            "separator": text.separator,
            "train": {"sequences": count, "length": length, "tokens": count * length, "sha256": digest.hexdigest()},
            "epochs": round(count * length / len(text.tokens.splits["train"]), 3),
            "measured": {"split": spec.evaluate.split, "tokens": len(tokens)},
            "text": text.about,
        }
        write_atomic(folder / ABOUT, json.dumps(plain(about), indent=1) + "\n")
    except OSError as problem:
        if not is_disk_trouble(problem):
            raise UserError(
                f"cannot write {folder}: {problem.strerror or problem}; give another folder with --out"
            ) from problem
        raise MachineError(f"cannot write the training tokens: {problem}; free some space, then try again") from problem


class Batches(Dataset):
    """The training sequences; takes the indices of a micro-batch at once, and gives {"input_ids": LongTensor [B, length]}."""

    def __init__(self, train: np.ndarray):
        self.train = train

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: rows[0] for name, rows in self.__getitems__([i]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"input_ids": torch.from_numpy(self.train[indices].astype(np.int64))}
