"""Training text that is read as it is trained on: a data set of the hub or a folder too large to be held, packed as it comes.

    stream = open_stream(StreamSpec(source="HuggingFaceFW/fineweb-edu:sample-100BT", length=2048), tokenizer, items=10**6)
    stream[0]["input_ids"], stream[0]["position_ids"]      # LongTensor [2048]; items are taken in ascending order

Documents are taken some at a time, packed so that none sees another, and their sequences handed on in an order drawn for these.
Item i depends on the source, the tokenizer and the seed alone. The first documents are held out. Where each lot of documents
begins in the source is noted in `notes`, so that a training goes on without reading again what it has read.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nha_eval import hub
from nha_eval.errors import UserError, is_disk_trouble, one_line
from nha_eval.paths import user_path
from nha_eval.spec import Count, Whole
from nha_eval.text import tokens as stored
from nha_eval.text.local import FIELD
from nha_eval.text.sequences import Documents
from nha_eval.text.sources import refuse_test_data

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = {".jsonl": "json", ".gz": "json", ".zst": "json", ".parquet": "parquet"}
_NOTES = "stream.jsonl"


class StreamSpec(BaseModel):
    """Units and legal values stand beside each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(min_length=1)  # a hub id (org/name or org/name:config), or a folder of .jsonl, .jsonl.gz or .parquet
    length: Count = 2048  # tokens a sequence
    lot: Count = 2000  # documents packed together
    heldout_documents: Count = 500  # the source's first, not trained on
    seed: Whole = Field(0, ge=0, lt=2**32)  # of the order within a lot
    separator: str | None = Field(None, min_length=1)  # the token between documents; None: the tokenizer's EOS


class Stream:
    """A map dataset of `items` sequences, to be asked for in ascending order (an earlier one begins anew)."""

    def __init__(self, spec: StreamSpec, tokenizer: Any, items: int, notes: Path | None = None):
        self.spec, self.tokenizer, self.items = spec, tokenizer, items
        self.separator = stored.separator_id(tokenizer, spec.separator)
        self.about = {"spec": spec.model_dump(mode="json"), "tokenizer": stored.tokenizer_digest(tokenizer)}
        self._notes = None if notes is None else notes / _NOTES
        self._begins: list[dict[str, Any]] = self._read_notes()
        # So that a source that cannot be had is told of before anything is trained.
        self._opened: Any = _open(spec)
        self._lots: Iterator[tuple[int, list[dict[str, np.ndarray]]]] | None = None
        self._first, self._lot = 0, []

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        import torch

        if not 0 <= i < self.items:
            raise IndexError(f"item {i} of {self.items}")
        if self._lots is None or i < self._first:
            self._lots = self._from(i)
            self._first, self._lot = next(self._lots)
        while i >= self._first + len(self._lot):
            self._first, self._lot = next(self._lots)
        return {name: torch.from_numpy(values) for name, values in self._lot[i - self._first].items()}

    def heldout(self, length: int, count: int) -> list[dict[str, Tensor]]:
        """Up to `count` sequences of `length` tokens out of the held-out documents, one after the other; at least one."""
        import torch

        documents = [row for _, row in zip(range(self.spec.heldout_documents), iter(_open(self.spec)), strict=False)]
        row = self._tokens([self._text(document) for document in documents])
        there = min(count, len(row) // length)
        if not there:
            raise UserError(
                f"stream: the first {self.spec.heldout_documents} documents of {self.spec.source!r} have fewer than {length} "
                "tokens to measure on: raise heldout_documents"
            )
        return [{"input_ids": torch.from_numpy(row[i * length : (i + 1) * length])} for i in range(there)]

    def _from(self, i: int) -> Iterator[tuple[int, list[dict[str, np.ndarray]]]]:
        """(number of its first item, sequences) of lots, from the last noted one that begins at or before item i."""
        rows, self._opened = self._opened or _open(self.spec), None
        rows = rows.skip(self.spec.heldout_documents)
        known = [note for note in self._begins if note["item"] <= i]
        first, number = 0, 0
        if known:
            first, number = known[-1]["item"], known[-1]["lot"]
            rows.load_state_dict(known[-1]["state"])
        documents = iter(rows)
        while True:
            lot = self._take(documents)
            if not lot:
                raise UserError(
                    f"stream: source {self.spec.source!r} ends after {first} sequences of {self.spec.length} tokens; "
                    f"{self.items} are wanted: lower tokens, or give a larger source"
                )
            after = rows.state_dict()
            packing = Documents(self._tokens(lot), self.spec.length, self.separator)
            order = np.random.default_rng([self.spec.seed, number]).permutation(len(packing))
            yield first, [packing[int(place)] for place in order]
            first, number = first + len(packing), number + 1
            self._note(first, number, after)

    def _take(self, documents: Iterator[dict[str, Any]]) -> list[str]:
        try:
            return [self._text(row) for row in islice(documents, self.spec.lot)]
        except UserError:
            raise
        except Exception as problem:
            # The hub's clients have errors of their own packages; any other kind is a mistake of this project.
            package = type(problem).__module__.split(".")[0]
            if is_disk_trouble(problem) or not (isinstance(problem, OSError) or package in ("datasets", *hub.CLIENT_PACKAGES)):
                raise
            raise UserError(
                f"source {self.spec.source!r} broke off: {one_line(problem)}; the same command goes on"
            ) from problem

    def _text(self, row: dict[str, Any]) -> str:
        if not isinstance(row.get(FIELD), str):
            raise UserError(f"source {self.spec.source!r}: its rows have no text under {FIELD!r}, only {', '.join(row)[:120]}")
        return row[FIELD]

    def _tokens(self, documents: list[str]) -> np.ndarray:
        found = self.tokenizer(documents, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return np.concatenate([np.asarray([*ids, self.separator], np.int64) for ids in found])

    def _read_notes(self) -> list[dict[str, Any]]:
        """Where lots begin, the first aside; what a kill cut off is the last line at most."""
        found: list[dict[str, Any]] = []
        if self._notes is not None and self._notes.exists():
            for line in self._notes.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return sorted(found, key=lambda note: note["lot"])

    def _note(self, item: int, lot: int, state: dict[str, Any]) -> None:
        if self._begins and lot <= self._begins[-1]["lot"]:
            return
        self._begins.append({"item": item, "lot": lot, "state": state})
        if self._notes is not None:
            with self._notes.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(self._begins[-1]))


def open_stream(spec: StreamSpec, tokenizer: Any, items: int, notes: Path | None = None) -> Stream:
    """`items` sequences of a stream; `notes`: the folder of the training. UserError where the source cannot be had."""
    return Stream(spec, tokenizer, items, notes)


def _open(spec: StreamSpec) -> Any:
    """The source's rows, a `datasets` stream."""
    import datasets

    path = user_path(spec.source, "source")
    if path.exists():
        refuse_test_data(spec.source, path)
        files = sorted(file for file in ([path] if path.is_file() else path.rglob("*")) if file.suffix in SUFFIXES)
        kinds = {SUFFIXES[file.suffix] for file in files}
        if len(kinds) != 1:
            found = " and ".join(sorted(kinds)) or "no"
            raise UserError(
                f"source {spec.source!r} holds {found} files of text: give a folder of one kind, .jsonl or .parquet"
            )
        return datasets.load_dataset(kinds.pop(), data_files=[str(file) for file in files], split="train", streaming=True)
    name, _, config = spec.source.partition(":")
    if name.count("/") != 1:
        raise UserError(f"no such source: {spec.source!r}; give a hub id (org/name), or a folder of .jsonl or .parquet files")
    refuse_test_data(spec.source, None)
    answers, word = hub.reachable()
    if not answers:
        raise UserError(
            f"source {spec.source!r} is on the hub, which cannot be reached ({word}): give a folder of text instead"
        )
    try:
        return datasets.load_dataset(name, config or None, split="train", streaming=True)
    except (OSError, ValueError) as problem:
        raise UserError(f"source {spec.source!r} cannot be had from the hub: {one_line(problem)}") from problem
