"""Which documents train, which are held out, which stay unseen; and nothing of the latter two stands in the first.

A document's split depends on the hash of its content: the lowest hashes are `heldout` (a training's own evaluation, choosing
layers and windows), the highest `unseen` (confirming what was chosen; read by no training and no search), the rest `train`. So
the splits of a corpus stay when documents are added, but for the few at the borders.

Of documents that say the same, one stays. Then near-duplicates go: an unseen document at least half of whose word 5-grams
stand in held-out text; a training one at least half of whose stand in held-out or unseen text; and a held-out or unseen one at
least half of whose stand in what is left to train on.

    split(documents, share=0.02, least=400_000).documents["train"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import compress

from nha_eval.errors import UserError
from nha_eval.text.documents import Document, content_hash, cut_long
from nha_eval.text.near import Shingles, near_duplicates

SPLITS = ("train", "heldout", "unseen")
MOST_SHARE = 10  # the least size of a held-out split never takes more than one such part of the corpus
_HASHES = 2**128


@dataclass(frozen=True)
class Splits:
    """The documents of each split, in the order of the sources, and how many were removed, by reason."""

    documents: dict[str, list[Document]]
    removed: dict[str, int]


def split(
    documents: list[Document], share: float, least: int, *, only_train: Iterable[Document] = (), step: Callable = lambda: None
) -> Splits:
    """The splits: `share` of the documents, and at least `least` characters, in heldout and in unseen each.

    `only_train` are documents that are never held out. `step` is called after each training document is compared. Raises
    UserError where there are too few documents for three splits.
    """
    documents = cut_long(documents)
    unique = _unique(documents)
    if len(unique) < len(SPLITS):
        raise UserError(
            f"the training text holds {len(unique)} different documents; wanted are at least {len(SPLITS)}, one a split: give "
            "more or longer text"
        )
    texts = list(unique.values())
    chosen = _choose([len(document.text) for document in texts], list(unique), share, least)
    train, heldout, unseen = ([texts[i] for i in sorted(chosen[name])] for name in SPLITS)
    extra = [document for digest, document in _unique(only_train).items() if digest not in unique]
    before = {"train": len(train) + len(extra), "heldout": len(heldout), "unseen": len(unseen)}

    shingles = Shingles()
    unseen = _without(unseen, near_duplicates(_texts(unseen), _texts(heldout), shingles)[0])
    near, held_near = near_duplicates(_texts(train + extra), _texts(heldout + unseen), shingles, step)
    train = _without(train + extra, near)
    heldout, unseen = _without(heldout, held_near[: len(heldout)]), _without(unseen, held_near[len(heldout) :])

    parts = {"train": train, "heldout": heldout, "unseen": unseen}
    for name, part in parts.items():
        if not part:
            raise UserError(f"all of the {name} text stands in the other splits as well: give text that repeats itself less")
    removed = {"duplicates": len(documents) - len(unique)}
    removed |= {f"near_duplicates_{name}": before[name] - len(part) for name, part in parts.items()}
    return Splits(parts, removed)


def _texts(documents: list[Document]) -> list[str]:
    return [document.text for document in documents]


def _without(documents: list[Document], flags: list[bool]) -> list[Document]:
    return list(compress(documents, (not flag for flag in flags)))


def _unique(documents: Iterable[Document]) -> dict[int, Document]:
    """Documents by the hash of their content, the first of each."""
    kept: dict[int, Document] = {}
    for document in documents:
        kept.setdefault(content_hash(document.text), document)
    return kept


def _choose(sizes: list[int], hashes: list[int], share: float, least: int) -> dict[str, list[int]]:
    """Indices by split. A held-out split takes the hashes of its share, then the next ones until it has its least size."""
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    least = min(least, sum(sizes) // MOST_SHARE)
    border = int(share * _HASHES)

    def take(places: list[int], leaving: int, within: Callable[[int], bool]) -> list[int]:
        taken: list[int] = []
        size = 0
        for place in places[: len(places) - leaving]:
            if taken and size >= least and not within(hashes[place]):
                break
            taken.append(place)
            size += sizes[place]
        return taken

    heldout = take(order, 2, lambda digest: digest < border)
    rest = order[len(heldout) :]
    unseen = take(rest[::-1], 1, lambda digest: digest >= _HASHES - border)
    return {"train": rest[: len(rest) - len(unseen)], "heldout": heldout, "unseen": unseen}
