"""Training text out of a data set of the Hugging Face hub: split `train`, column `text`, streamed up to a number of characters.

What came is kept in the cache with the data set's revision and licence, so that a second time nothing is asked for.

    hub_corpus("HuggingFaceFW/fineweb-edu", "sample-10BT", characters=10**8)
"""

from __future__ import annotations

from typing import Any

from nha_eval import hub
from nha_eval.errors import UserError, is_disk_trouble, one_line, printable
from nha_eval.text.documents import Corpus, Document
from nha_eval.text.local import FIELD
from nha_eval.text.showing import Bar
from nha_eval.text.stored import stored_corpus

SPLIT = "train"


def hub_corpus(name: str, config: str | None, characters: int) -> Corpus:
    """At most `characters` of the data set.

    Raises UserError where the hub cannot be reached (found out within 5 s), has no such data, or it has no text.
    """
    given = f"{name}:{config}" if config else name
    folder = f"hub-{given.replace('/', '--').replace(':', '--')}-{characters}"
    return stored_corpus(given, folder, lambda _: _stream(given, name, config, characters), characters)


def _stream(given: str, name: str, config: str | None, characters: int) -> tuple[list[Document], dict[str, Any]]:
    import datasets

    answers, word = hub.reachable()
    if not answers:
        raise UserError(
            f"source {given!r} is on the hub, which cannot be reached ({word}): give a folder of text, or debian, or try again "
            "with a connection"
        )
    documents: list[Document] = []
    left = characters
    try:
        stream = datasets.load_dataset(name, config, split=SPLIT, streaming=True)
        with Bar(given, characters) as bar:
            for number, row in enumerate(stream):
                if not isinstance(row.get(FIELD), str):
                    shown = printable(", ".join(row), 120)
                    raise UserError(f"source {given!r}: its rows have no text under {FIELD!r}, only {shown}: give another one")
                left -= len(row[FIELD])
                if left < 0:
                    break
                documents.append(Document(row[FIELD], given, str(number)))
                bar.advance(len(row[FIELD]))
    except UserError:
        raise
    except Exception as problem:
        # The hub's clients have errors of their own packages; any other kind is a mistake of this project.
        package = type(problem).__module__.split(".")[0]
        if is_disk_trouble(problem) or not (
            isinstance(problem, OSError | ValueError) or package in ("datasets", *hub.CLIENT_PACKAGES)
        ):
            raise
        raise UserError(f"source {given!r} cannot be had from the hub: {one_line(problem)}") from problem
    return documents, {"kind": "hub", **_facts(name)}


def _facts(name: str) -> dict[str, Any]:
    """The data set's revision and licence, as the hub states them."""
    from huggingface_hub import constants

    try:
        told = hub.ask(f"{constants.ENDPOINT}/api/datasets/{name}").json()
    except (OSError, ValueError):
        told = {}
    return {"revision": told.get("sha"), "licence": (told.get("cardData") or {}).get("license") or "not stated"}
