"""Documents as tokens in the cache: one row of integers a split, mapped into memory, made once.

A folder `tokens-KEY` holds `train.npy`, `heldout.npy` and `unseen.npy` (uint16, or uint32 for vocabularies over 65,536; a
separator after each document) and `about.json`, the record of what they are. KEY is a hash of the sources, the settings of the
splits, the tokenizer and the separator. The folder is whole by itself: copied to another machine, it is a source by its path.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nha_eval.errors import MachineError, UserError, is_disk_trouble
from nha_eval.text.documents import Document, pieces
from nha_eval.text.showing import Bar
from nha_eval.text.splits import SPLITS

FORM = 1  # of the folder and of how its content is made; part of the key
ABOUT = "about.json"
PIECE = 20_000  # characters tokenised as one text: far longer ones take the tokenizer more than proportional time
BATCH = 200  # pieces
# What tokenizers of one vocabulary may cut differently.
SAMPLE = (
    "It's 3 o'clock, isn't it?  Über-naïve café, 12345.678 km²; 你好 مرحبا \U0001f600\n\n\tdef f(x):\n"
    "        return x**2 != 10_000  # ~!@$%^&*()[]{}<>|\\/ <|endoftext|></s> THE\u00a0antidisestablishmentarianism e\u0301 "
)


@dataclass(frozen=True)
class Tokens:
    """`splits` by name [N] uint16 or uint32, and `about`, as `about.json` has it."""

    folder: Path
    splits: dict[str, np.ndarray]
    about: dict[str, Any]


def tokenizer_digest(tokenizer: Any) -> str:
    """Of all that decides which tokens a text becomes. Raises UserError for a tokenizer that is not a fast one."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} is no fast tokenizer: give a model whose folder holds tokenizer.json")
    # Not of its file, which is written otherwise from one version of the library to the next.
    does = [sorted(tokenizer.get_vocab().items()), tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]]
    return hashlib.sha256(json.dumps(does).encode()).hexdigest()[:16]


def separator_id(tokenizer: Any, separator: str | None) -> int:
    """The token between documents. Raises UserError where the tokenizer has none of that name, or no EOS."""
    if separator is None:
        if tokenizer.eos_token_id is None:
            raise UserError("this tokenizer has no EOS token to stand between documents: name one with `separator`")
        return int(tokenizer.eos_token_id)
    if separator not in (vocabulary := tokenizer.get_vocab()):
        special = ", ".join(sorted(tokenizer.get_added_vocab())[:8]) or "none"
        raise UserError(f"separator {separator!r}: the tokenizer has no such token (special ones: {special})")
    return int(vocabulary[separator])


def is_tokens_folder(path: Path) -> bool:
    return all((path / name).is_file() for name in (ABOUT, *(f"{split}.npy" for split in SPLITS)))


def read_tokens(folder: Path) -> Tokens:
    """A folder that `write_tokens` left. Raises UserError where it is not whole."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        splits = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in SPLITS}
        whole = all(about["splits"][name]["tokens"] == len(splits[name]) for name in SPLITS) and about["form"] == FORM
    except (OSError, ValueError, KeyError, TypeError, EOFError) as problem:
        raise UserError(f"{folder}: this is no whole folder of tokens ({problem}): remove it and make it again") from problem
    if not whole:
        raise UserError(f"{folder}: its files are not those that {ABOUT} tells of: remove it and make it again")
    return Tokens(folder, splits, about)


def write_tokens(folder: Path, parts: dict[str, list[Document]], tokenizer: Any, separator: int, about: dict[str, Any]) -> None:
    """Write the splits' tokens and the record, whole or not at all. Raises MachineError where the disk is full."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    dtype = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    try:
        partial.mkdir(parents=True)
        counts: dict[str, Any] = {}
        total = sum(len(document.text) for part in parts.values() for document in part)
        by_source: dict[str, int] = {}
        with Bar("tokens", total) as bar:
            for name, part in parts.items():
                rows = []
                for document, ids in zip(part, _tokenised(part, tokenizer, bar), strict=True):
                    rows += [np.array(ids, dtype), np.array([separator], dtype)]
                    by_source[document.source] = by_source.get(document.source, 0) + len(ids) + 1
                tokens = np.concatenate(rows)
                np.save(partial / f"{name}.npy", tokens)
                counts[name] = {
                    "documents": len(part),
                    "characters": sum(len(document.text) for document in part),
                    "tokens": len(tokens),
                    "sha256": hashlib.sha256(tokens.tobytes()).hexdigest(),
                }
        content = {"form": FORM, **about, "splits": counts, "tokens_by_source": by_source}
        (partial / ABOUT).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as problem:
        if not is_disk_trouble(problem):
            raise UserError(
                f"cannot write tokens into {folder.parent}: {problem.strerror or problem}: set NHA_EVAL_CACHE to a folder that "
                "can be written"
            ) from problem
        raise MachineError(f"cannot write tokens: {problem}; free some space, then give the same command again") from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _tokenised(documents: Iterable[Document], tokenizer: Any, bar: Bar) -> Iterator[list[int]]:
    """Each document's tokens, without special ones: a text that names one, such as "<|end|>", has it as plain letters."""
    held: list[list[int]] = []
    for batch in _batches(documents):
        texts = [piece for _, piece in batch]
        rows = tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        for (is_last, piece), ids in zip(batch, rows, strict=True):
            held.append(ids)
            bar.advance(len(piece))
            if is_last:
                yield [token for ids in held for token in ids]
                held = []


def _batches(documents: Iterable[Document]) -> Iterator[list[tuple[bool, str]]]:
    """Lists of (whether it ends its document, piece)."""
    batch: list[tuple[bool, str]] = []
    for document in documents:
        parts = list(pieces(document.text, PIECE))
        batch += [(number == len(parts) - 1, part) for number, part in enumerate(parts)]
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
