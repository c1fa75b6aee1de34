"""Training sequences of recall text: documents made on the fly, with passages of the training split between their facts.

    RecallSequences(Passages(tokens, tokenizer, separator), tokenizer, separator, length=2048, seed=0)[7]

Sequence number i is a pure function of (tokens, tokenizer, length, seed, i).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from nha_eval.text.recall_text import recall_document
from nha_eval.text.sequences import document_bounds, packed

_STREAM = 0x5EC  # beside the seed, so that no other use of it draws the same numbers
_SHORTEST = 80  # tokens; a smaller rest of a sequence holds a passage
_FILLED = 0.8  # of the room that a document is to take, as its tokens are not known beforehand
_TRIES = 3
_SENTENCE = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[]?[A-Z])")


class Passages:
    """Passages of a row of tokens as text: whole sentences, each from one document."""

    def __init__(self, tokens: np.ndarray, tokenizer: Any, separator: int):
        self._tokens, self._tokenizer = tokens, tokenizer
        self._bounds = document_bounds(tokens, separator)
        sample = np.asarray(tokens[:4096])
        self.characters_a_token = max(1.0, len(self._decode(sample)) / len(sample))

    def take(self, rng: np.random.Generator, characters: int) -> str:
        """At most so many characters, from a random place; shorter where the document or a sentence ends before."""
        longest = ""
        for _ in range(_TRIES):
            begin = int(rng.integers(len(self._tokens)))
            # The separator itself is left out.
            end = int(self._bounds[np.searchsorted(self._bounds, begin, side="right")]) - 1
            # The first sentence is most often cut, and goes.
            wanted = int((characters + 300) / self.characters_a_token) + 1
            text = self._decode(np.asarray(self._tokens[begin : min(end, begin + wanted)]))
            text = _whole_sentences(text, characters)
            longest = max(longest, text, key=len)
            if 2 * len(longest) >= characters:
                break
        return longest

    def _decode(self, ids: np.ndarray) -> str:
        return self._tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False).replace("\ufffd", "")


def _whole_sentences(text: str, characters: int) -> str:
    first = _SENTENCE.search(text, 0, 300)
    text = text[first.end() :] if first else text[text.find(" ") + 1 :]
    if len(text) <= characters:
        return text.strip()
    text = text[:characters]
    ends = [found.start() + len(found.group().rstrip()) for found in _SENTENCE.finditer(text)]
    return (text[: ends[-1]] if ends else text[: max(text.rfind(" "), 0)]).strip()


class RecallSequences:
    """Sequence i as a dict of numpy arrays [length], with the names that the packing in use gives."""

    def __init__(self, passages: Passages, tokenizer: Any, separator: int, length: int, seed: int, *, documents: bool = False):
        self._passages, self._tokenizer, self._separator = passages, tokenizer, separator
        self._length, self._seed, self._documents = length, seed, documents

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([self._seed, number, _STREAM])
        parts: list[np.ndarray] = []
        room = self._length
        while room:
            ids = self._document(rng, room)
            parts.append(ids)
            room -= len(ids)
        if self._documents:
            return packed(parts, self._length, self._separator)
        return {"input_ids": np.concatenate(parts)}

    def _document(self, rng: np.random.Generator, room: int) -> np.ndarray:
        """A document's tokens and the separator, at most `room` in all."""
        ratio = self._passages.characters_a_token
        if room < _SHORTEST:
            return self._tokens(self._passages.take(rng, int(room * ratio * 2)), room)
        # Half of the documents take all the room, so that long distances are practised; the others any part of it.
        share = 1.0 if rng.random() < 0.5 else float(np.exp(rng.uniform(np.log(_SHORTEST / room), 0)))
        characters = _FILLED * share * room * ratio
        for _ in range(_TRIES):
            ids = self._tokens(recall_document(rng, int(characters), self._passages.take), None)
            if len(ids) <= room:
                break
            characters *= 0.8 * room / len(ids)
        return ids[:room]

    def _tokens(self, text: str, room: int | None) -> np.ndarray:
        ids = self._tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        return np.array([*ids[: None if room is None else room - 1], self._separator], np.int64)
