"""From a TextSpec and a tokenizer to what can be trained on: sources, splits, tokens, sequences; made once, then cached."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from nha_eval.errors import UserError
from nha_eval.paths import user_path
from nha_eval.text import tokens as stored
from nha_eval.text.documents import Corpus, Document
from nha_eval.text.sequences import Documents, FixedBlocks, Items, Sequences
from nha_eval.text.showing import Bar, note
from nha_eval.text.sources import open_source
from nha_eval.text.spec import TextSpec
from nha_eval.text.splits import split
from nha_eval.text.stored import text_folder

# What decides a folder of tokens, beside the sources and the tokenizer.
DECIDES = ("heldout_share", "heldout_characters", "characters", "self_text")


class Text:
    """Text ready for training: `train`, `heldout`, `unseen`, and `about`, which goes into records."""

    def __init__(self, spec: TextSpec, tokens: stored.Tokens, tokenizer: Any, separator: int):
        self.spec, self.tokens, self.tokenizer, self.separator = spec, tokens, tokenizer, separator
        self.about: dict[str, Any] = {"spec": spec.model_dump(mode="json"), "folder": tokens.folder.name, **tokens.about}

    @cached_property
    def train(self) -> Sequences:
        """One epoch of training sequences."""
        return self.training()

    def training(self, items: int | None = None) -> Sequences:
        """As many training sequences as `items` (None: one epoch), through the text again in new orders where it is used up."""
        spec, tokens = self.spec, self.tokens.splits["train"]
        packing: Any = tokens
        if spec.packing == "documents":
            packing = Documents(tokens, spec.length, self.separator)
        recall = self._recall() if spec.recall_share else None
        return Sequences(packing, spec.length, spec.seed, items=items, recall=recall, recall_share=spec.recall_share)

    def heldout(self, length: int | None = None, n: int | None = None) -> FixedBlocks:
        """The first `n` sequences (None: all) of `length` tokens (None: the spec's), for evaluating and choosing.

        Raises UserError where there are fewer.
        """
        return FixedBlocks(self.tokens.splits["heldout"], length or self.spec.length, n, "held-out")

    def unseen(self, length: int | None = None, n: int | None = None) -> FixedBlocks:
        """As `heldout`, of the text that no training and no search may read, for confirming."""
        return FixedBlocks(self.tokens.splits["unseen"], length or self.spec.length, n, "unseen")

    def _recall(self) -> Items:
        from nha_eval.text.recall_sequences import Passages, RecallSequences

        passages = Passages(self.tokens.splits["train"], self.tokenizer, self.separator)
        documents = self.spec.packing == "documents"
        return RecallSequences(passages, self.tokenizer, self.separator, self.spec.length, self.spec.seed, documents=documents)


def open_text(spec: TextSpec, tokenizer: Any) -> Text:
    """The text of a spec in a tokenizer's tokens, made ready first where the cache does not hold it.

    tokenizer: a fast one of Transformers. Raises UserError, one line, for sources that cannot be had or are test data, and
    MachineError where the disk is full.
    """
    separator = stored.separator_id(tokenizer, spec.separator)
    digest = stored.tokenizer_digest(tokenizer)
    ready = [name for name in spec.source if stored.is_tokens_folder(user_path(name, "source"))]
    if ready:
        tokens = _given(spec, ready[0], digest, None if spec.separator is None else separator)
        return Text(spec, tokens, tokenizer, tokens.about["separator"])
    corpora, own, digests = sources_of(spec)
    about = {
        "sources": [corpus.about for corpus in corpora],
        "self_text": own.about if own else None,
        "tokenizer": digest,
        "separator": separator,
        **{key: getattr(spec, key) for key in DECIDES if key != "self_text"},
    }
    return Text(spec, _made(about, digests, corpora, own, tokenizer, spec), tokenizer, separator)


def sources_of(spec: TextSpec) -> tuple[list[Corpus], Corpus | None, list[str]]:
    """(the corpora of the sources, that of text a model wrote, the digests of both). Raises as `open_text`."""
    corpora = [open_source(name, spec.characters) for name in spec.source]
    own = _self_text(spec)
    return corpora, own, [corpus.digest for corpus in (*corpora, *([own] if own else []))]


def split_sources(
    corpora: list[Corpus], own: Corpus | None, spec: TextSpec
) -> tuple[dict[str, list[Document]], dict[str, int]]:
    """(the documents of each split, how many were removed, by reason)."""
    documents = [document for corpus in corpora for document in corpus.documents()]
    written = list(own.documents()) if own else []
    with Bar("near-duplicates", len(documents) + len(written)) as bar:
        found = split(documents, spec.heldout_share, spec.heldout_characters, only_train=written, step=bar.advance)
    return found.documents, found.removed


def _given(spec: TextSpec, name: str, digest: str, separator: int | None) -> stored.Tokens:
    """A folder of tokens given as the source; separator None: its own."""
    ignored = sorted(spec.model_fields_set & set(DECIDES))
    if len(spec.source) > 1 or spec.self_text:
        raise UserError(
            f"source {name!r} is a folder of tokens, which stands alone: give no other source and no self_text beside it"
        )
    if ignored:
        note(f"note: source {name!r} is a folder of tokens, split already: {', '.join(ignored)} is not applied to it")
    tokens = stored.read_tokens(user_path(name, "source").absolute())
    if tokens.about["tokenizer"] != digest:
        raise UserError(
            f"source {name!r} holds the tokens of another tokenizer than this model's: give the text that they are of"
        )
    if separator not in (None, tokens.about["separator"]):
        raise UserError(
            f"source {name!r} has token {tokens.about['separator']} between documents, not {separator}: give the "
            "`separator` that it was made with"
        )
    return tokens


def _self_text(spec: TextSpec) -> Corpus | None:
    if spec.self_text is None:
        return None
    from nha_eval.text.local import local_corpus

    path = user_path(spec.self_text, "self_text")
    if not path.is_file():
        raise UserError(f"no such self_text: {spec.self_text!r}; give the .jsonl file that a model's text was written to")
    return local_corpus(spec.self_text, path, spec.characters)


def _made(
    about: dict[str, Any], digests: list[str], corpora: list[Corpus], own: Corpus | None, tokenizer: Any, spec: TextSpec
) -> stored.Tokens:
    """The tokens out of the cache, or made into it; a second process waits for the first."""
    from filelock import FileLock

    decides = {key: value for key, value in about.items() if key not in ("sources", "self_text")}
    key = hashlib.sha256(json.dumps([stored.FORM, digests, own is not None, decides], sort_keys=True).encode()).hexdigest()[:16]
    folder = text_folder() / f"tokens-{key}"
    if stored.is_tokens_folder(folder):
        return stored.read_tokens(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(
            f"cannot keep tokens in {folder.parent}: {problem.strerror or problem}: set NHA_EVAL_CACHE to a folder that can be "
            "written"
        ) from problem
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not stored.is_tokens_folder(folder):
            parts, removed = split_sources(corpora, own, spec)
            stored.write_tokens(folder, parts, tokenizer, about["separator"], {**about, "removed": removed})
    return stored.read_tokens(folder)
