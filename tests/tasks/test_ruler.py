"""RULER's needles: what is asked, that it fits, that the needle is there once, at any depth, whatever else is asked for."""

import re

import hub_docs
import numpy as np
import pytest

from tasks.ruler import ANSWER_ROOM, dataset, documents
from tasks.ruler.niah import KINDS
from tasks.tokenizing import counting_with

WORDS = hub_docs.word_tokenizer()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [512, 1000, 4096])
def test_documents_keep_their_promises(kind, length):
    docs = documents(kind, length, 5, 42, WORDS)
    for doc in docs:
        tokens = len(WORDS(doc["prompt"])["input_ids"]) + ANSWER_ROOM
        # A sentence of the haystack has 19 words at most, so no other would have found room.
        assert length - 19 < tokens <= length
        key = re.search(r"What is the special magic (?:number|uuid) for (\S+) mentioned", doc["prompt"])[1]
        needles = re.findall(rf"One of the special magic \w+ for {re.escape(key)} is: (\S+)\.", doc["prompt"])
        assert needles == doc["answers"]
        assert doc["prompt"].endswith(f"for {key} mentioned in the provided text is")
        assert 0 <= doc["depth"] <= 1
    assert len({doc["context_id"] for doc in docs}) == len({doc["prompt"] for doc in docs}) == 5
    assert documents(kind, length, 2, 42, WORDS) == docs[:2]
    assert documents(kind, length, 1, 7, WORDS) != docs[:1]


def test_a_prompt_by_hand():
    """The words around the haystack, the sentence and the needle are RULER's; 512 tokens hold 17 sentences of 19 words."""
    (doc,) = documents("single_1", 512, 1, 42, WORDS)
    lines = doc["prompt"].split("\n")
    assert lines[0] == (
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the number afterwards."
    )
    needle = next(line for line in lines if line.startswith("One of"))
    key, value = re.fullmatch(r"One of the special magic numbers for ([a-z]+-[a-z]+) is: (\d{7})\.", needle).groups()
    assert doc["answers"] == [value]
    haystack = [line for line in lines[1:-1] if line != needle]
    assert set(haystack) == {"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."}
    assert lines[-1] == (
        f"What is the special magic number for {key} mentioned in the provided text? "
        f"The special magic number for {key} mentioned in the provided text is"
    )
    # 23 words before it, 11 in the needle, 25 after it; 128 for the answer: 325 are left.
    assert len(haystack) == 17 == (512 - 128 - 23 - 11 - 25) // 19


@pytest.mark.parametrize("kind", KINDS)
def test_depths_are_even_and_answers_differ(kind):
    docs = documents(kind, 1024, 200, 42, WORDS)
    share, _ = np.histogram([doc["depth"] for doc in docs], bins=4, range=(0, 1))
    assert share.min() > 0.6 * len(docs) / 4
    assert len({doc["answers"][0] for doc in docs}) == len(docs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kind": "single_9"}, "no kind of needle named 'single_9'"), ({"lengths": [150]}, "length 150 cannot hold question")],
)
def test_wrong_settings_are_refused(settings, message):
    with counting_with(WORDS), pytest.raises(ValueError, match=message):
        dataset(**{"kind": "single_1", "lengths": [512], "contexts": 1, **settings})
