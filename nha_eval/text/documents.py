"""Documents and the corpora that they come from: what the sources give and the splits take.

A corpus says what it is (`about`, `digest`) without being read, so that what was made of it before is found at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

SHORTEST_CUT = 20_000  # characters; shorter documents are never cut
CUT_SHARE = 100  # a document longer than one such part of the corpus is cut


@dataclass(frozen=True)
class Document:
    """A text, and where it came from: the corpus, and its name inside."""

    text: str
    source: str
    name: str


@dataclass(frozen=True)
class Corpus:
    """One source's documents. `about` goes into records: source, licence, version, and what else is known."""

    digest: str  # of all that decides what `documents` gives
    about: dict[str, Any]
    documents: Callable[[], Iterator[Document]]


def content_hash(text: str) -> int:
    """128 bits of the SHA-256 of the text with all white space alike: what tells documents apart."""
    return int.from_bytes(hashlib.sha256(" ".join(text.split()).encode("utf-8", "replace")).digest()[:16], "big")


def cut_long(documents: list[Document]) -> list[Document]:
    """Documents of over a hundredth of the corpus (and 20,000 characters) cut at the ends of paragraphs.

    Without that one long book or dictionary would make up a split, or leave none for the others.
    """
    limit = max(SHORTEST_CUT, sum(len(document.text) for document in documents) // CUT_SHARE)
    return [
        Document(piece, document.source, document.name if number == 0 else f"{document.name}#{number}")
        for document in documents
        for number, piece in enumerate(pieces(document.text, limit))
    ]


def pieces(text: str, limit: int) -> Iterator[str]:
    """The text in parts of at most `limit` characters, cut at the last end of a paragraph, line or word that leaves a half."""
    begin = 0
    while len(text) - begin > limit:
        end = begin + limit
        for mark in ("\n\n", "\n", " "):
            found = text.rfind(mark, begin + limit // 2, end)
            if found >= 0:
                end = found + len(mark)
                break
        yield text[begin:end]
        begin = end
    if begin < len(text):
        yield text[begin:]
