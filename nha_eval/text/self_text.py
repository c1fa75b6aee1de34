"""Text that a model writes itself: sampled at temperature 1, from nothing or from the beginnings of training documents.

A hybrid distilled on it meets the very distribution that its base model has, whatever that was trained on. Documents go into a
.jsonl file, which `TextSpec.self_text` names; broken off, the same call goes on where it stopped.

    write_self_text(model, tokenizer, Path("self.jsonl"), documents=1000, length=1024, prefixes=text.tokens.splits["train"])
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from nha_eval.errors import UserError
from nha_eval.text.showing import Bar
from nha_eval.text.stored import text_folder

_STREAM = 0x5E1F  # beside the seed, so that no other use of it draws the same numbers


def self_text_path(name: str) -> Path:
    """Where a model's text is kept in the cache; `name` is the model's."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).lstrip(".-")
    return text_folder() / f"self-{safe or 'model'}.jsonl"


def write_self_text(
    model: Any,
    tokenizer: Any,
    path: Path,
    *,
    documents: int,
    length: int,
    seed: int = 0,
    batch: int = 8,
    prefixes: np.ndarray | None = None,
    prefix_tokens: int = 16,
) -> int:
    """Bring the file to so many documents of at most `length` tokens, `batch` at a time; how many were written now.

    prefixes: [N] tokens, of which each document begins with `prefix_tokens` taken from a random place (None: with BOS, or EOS
    where the tokenizer has no BOS). A batch is a function of (model, seed, its number), on one machine. Lines hold `text`, and
    the settings that they were made with; raises UserError where the file was made with others.
    """
    import torch

    begun = 1 if prefixes is None else prefix_tokens
    if length <= begun:
        raise UserError(f"documents of {length} tokens were asked for, of which {begun} are given: ask for longer ones")
    settings = {"seed": seed, "length": length, "batch": batch, "prefix_tokens": prefix_tokens if prefixes is not None else 0}
    done = _whole_lines(path, settings)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if prefixes is None and start is None:
        raise UserError("this tokenizer has neither BOS nor EOS for a text to begin with: give prefixes")
    written = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, Bar("text of the model", documents) as bar:
        bar.advance(done)
        # What a batch holds beyond `documents` is written too, so that batches stay whole.
        for number in range(done // batch, -(-documents // batch)):
            rng = np.random.default_rng([seed, number, _STREAM])
            if prefixes is None:
                begin = np.full((batch, 1), start, np.int64)
            else:
                places = rng.integers(max(1, len(prefixes) - prefix_tokens), size=batch)
                begin = np.stack([np.asarray(prefixes[place : place + prefix_tokens], np.int64) for place in places])
            with torch.random.fork_rng(devices=_devices(model)), torch.no_grad():
                torch.manual_seed(int(rng.integers(2**63)))
                given = torch.from_numpy(begin).to(model.device)
                ids = model.generate(
                    given,
                    attention_mask=torch.ones_like(given),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    max_length=length,
                    pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
                )
            texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
            lines = [json.dumps({"text": text, **settings}, ensure_ascii=False) + "\n" for text in texts]
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
            written += batch
            bar.advance(batch)
    return written


def _devices(model: Any) -> list[Any]:
    return [model.device] if model.device.type == "cuda" else []


def _whole_lines(path: Path, settings: dict[str, int]) -> int:
    """How many documents of whole batches the file has; what a break left is cut off. UserError for other settings."""
    if not path.exists():
        return 0
    content = path.read_bytes()
    lines = content.split(b"\n")[:-1]
    for line in lines:
        try:
            row = json.loads(line)
            there = {key: row[key] for key in settings}
        except (ValueError, KeyError, TypeError) as problem:
            raise UserError(f"{path} holds something else than a model's text: give another path, or remove it") from problem
        if there != settings:
            differs = next(key for key in settings if there[key] != settings[key])
            raise UserError(
                f"{path} was written with {differs} {there[differs]}, not {settings[differs]}: give another path, or remove it"
            )
    kept = lines[: len(lines) - len(lines) % settings["batch"]]
    if len(content) != (size := sum(len(line) + 1 for line in kept)):
        os.truncate(path, size)
    return len(kept)
