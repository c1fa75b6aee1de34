"""Splits: by content, apart, without duplicates; near-duplicates against a count written out with sets of words."""

import random

import numpy as np
import pytest

from nha_eval.errors import UserError
from nha_eval.text.documents import Document, cut_long, pieces
from nha_eval.text.near import Shingles, near_duplicates
from nha_eval.text.splits import split


def text(seed, words=120):
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=rng.randint(2, 6))) for _ in range(words))


def documents(count, start=0):
    return [Document(text(start + i), "here", f"{i}.txt") for i in range(count)]


def names(splits):
    return {name: {document.name for document in part} for name, part in splits.documents.items()}


def test_splits_are_disjoint_whole_and_a_matter_of_content_alone():
    docs = documents(300)
    found = names(split(docs, 0.05, 1))
    assert sum(map(len, found.values())) == 300 and set.union(*found.values()) == {document.name for document in docs}
    assert all(5 <= len(found[name]) <= 30 for name in ("heldout", "unseen"))
    shuffled = random.Random(1).sample(docs, len(docs))
    renamed = [Document(document.text, "elsewhere", document.name) for document in shuffled]
    assert names(split(renamed, 0.05, 1)) == found
    # White space is no content.
    spaced = [Document(document.text.replace(" ", "\n "), "here", document.name) for document in docs]
    assert names(split(spaced, 0.05, 1)) == found


def test_documents_that_are_added_move_none_of_the_others():
    added = [Document(text(1000 + i), "here", f"added{i}") for i in range(100)]
    few, more = names(split(documents(200), 0.05, 1)), names(split([*documents(200), *added], 0.05, 1))
    assert few["heldout"] <= more["heldout"] and few["unseen"] <= more["unseen"]


def test_small_corpora_have_a_least_of_held_out_text():
    docs = documents(60)
    total = sum(len(document.text) for document in docs)
    found = split(docs, 0.0001, total // 12)
    for name in ("heldout", "unseen"):
        size = sum(len(document.text) for document in found.documents[name])
        assert total // 12 <= size <= total // 12 + 1000
    # Never more than a tenth, but for the last document's length.
    greedy = split(docs, 0.0001, 10**9)
    assert all(sum(len(d.text) for d in greedy.documents[name]) <= total / 10 + 1000 for name in ("heldout", "unseen"))
    assert all(len(part) == 1 for part in split(documents(3), 0.02, 10**9).documents.values())


def test_exact_duplicates_go_and_too_few_documents_are_refused():
    docs = documents(50)
    again = [Document(docs[7].text.replace(" ", "  "), "here", "copy.txt")]
    found = split(docs + again, 0.05, 1)
    assert found.removed["duplicates"] == 1 and "copy.txt" not in set.union(*names(found).values())
    with pytest.raises(UserError, match="holds 2 different documents; wanted are at least 3"):
        split(documents(2) + documents(2), 0.05, 1)


def changed(original, share, seed):
    """The text with about that share of its words replaced, in one run at its end."""
    words = original.split()
    kept = int(len(words) * (1 - share))
    return " ".join(words[:kept] + text(seed, len(words) - kept).split())


def test_near_duplicates_of_held_out_text_are_removed_from_training():
    docs = documents(100)
    found = split(docs, 0.05, 1)
    target, other = found.documents["heldout"][0], found.documents["unseen"][0]
    # Near copies that fall to training by their own hash; enough of them are tried for that.
    near = [Document(changed(target.text, 0.3, 500 + i), "here", f"near{i}") for i in range(6)]
    near += [Document(changed(other.text, 0.3, 600 + i), "here", f"near{6 + i}") for i in range(6)]
    far = [Document(changed(target.text, 0.8, 700 + i), "here", f"far{i}") for i in range(6)]
    after = split(docs + near + far, 0.05, 1)
    kept = names(after)
    assert not kept["train"] & {document.name for document in near}
    assert {document.name for document in far} <= set.union(*kept.values())
    assert after.removed["near_duplicates_train"] >= 8


def test_held_out_text_that_is_quoted_in_training_is_removed():
    docs = documents(100)
    target = split(docs, 0.05, 1).documents["heldout"][0]
    book = Document(f"{text(800, 900)} {target.text} {text(801, 900)}", "here", "book")
    after = split([*docs, book], 0.05, 1)
    # Seeds at which the book's own hash makes it training text.
    assert book.name in names(after)["train"]
    assert target.name not in set.union(*names(after).values())
    assert after.removed["near_duplicates_heldout"] == 1


def test_documents_for_training_alone_are_never_held_out():
    docs, own = documents(60), documents(200, 2000)
    own = [Document(document.text, "own", f"own{i}") for i, document in enumerate(own)]
    found = split(docs, 0.1, 1, only_train=[*own, docs[0]])
    assert {document.name for document in own} <= names(found)["train"]
    plain = split(docs, 0.1, 1)
    assert names(found)["heldout"] == names(plain)["heldout"] and names(found)["unseen"] == names(plain)["unseen"]


def by_hand(texts, held):
    """The definition, with sets of tuples of words."""

    def grams(words):
        words = "".join(c if c.isalnum() else " " for c in words.lower()).split()
        return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}

    table = set().union(*map(grams, held))
    near = [bool(grams(t)) and len(grams(t) & table) >= 0.5 * len(grams(t)) for t in texts]
    met = set().union(*(grams(t) for t, flag in zip(texts, near, strict=True) if not flag))
    return near, [bool(grams(t)) and len(grams(t) & met) >= 0.5 * len(grams(t)) for t in held]


@pytest.mark.parametrize("seed", range(8))
def test_containment_is_counted_as_defined(seed):
    rng = random.Random(seed)
    # Few words, so that grams are shared by chance; pieces of each other, so that they are shared in runs.
    pool = [" ".join(rng.choices(["one", "Two", "three,", "four"], k=rng.randint(0, 40))) for _ in range(12)]
    pool += [" ".join(rng.sample(pool, 2)) for _ in range(12)]
    texts, held = pool[::2], pool[1::2]
    assert near_duplicates(texts, held) == by_hand(texts, held)
    assert near_duplicates(texts, []) == ([False] * len(texts), [])


def test_shingles_are_the_same_for_the_same_words():
    shingles = Shingles()
    assert (shingles("A b, c d e f") == shingles("a B c d. e f")).all()
    assert len(shingles("a b c d e f")) == 2 and len(shingles("a b c d")) == 0
    long = text(1, 5000)
    words, many = long.split(), shingles(long)
    assert len(np.unique(many)) == len(many) == len({tuple(words[i : i + 5]) for i in range(4996)})


def test_long_documents_are_cut_at_paragraphs():
    book = "\n\n".join(text(i, 60) for i in range(400))
    cut = cut_long([Document(book, "here", "book")])
    assert "".join(document.text for document in cut) == book
    assert all(len(document.text) <= 20_000 for document in cut) and len(cut) >= 5
    assert all(document.text.endswith("\n\n") for document in cut[:-1])
    assert [document.name for document in cut[:3]] == ["book", "book#1", "book#2"]
    # No cut in a corpus in which it is short.
    assert len(cut_long([Document("x" * 15_000, "here", "a")] * 5)) == 5


@pytest.mark.parametrize("limit", [1, 7, 50])
def test_pieces_are_the_text(limit):
    for seed in range(20):
        rng = random.Random(seed)
        given = "".join(rng.choices(["a", "b", " ", "\n", "\n\n"], k=rng.randint(0, 200)))
        found = list(pieces(given, limit))
        assert "".join(found) == given and all(1 <= len(piece) <= limit for piece in found)
