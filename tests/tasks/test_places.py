"""Where answers stand: in the prompts of every kind of task, in characters, and in a model's tokens."""

import hub_docs
import pytest

from tasks import ruler, synthetic
from tasks.hub_recall import documents
from tasks.places import TokenPlace, in_tokens, nearest
from tasks.synthetic import generator_names

WORDS = hub_docs.word_tokenizer()


def test_the_mention_nearest_to_the_end_counts():
    text = "Norse men met norse men (and C++ men)."
    assert nearest(["Norse"], text) == nearest(["absent", "NORSE"], text) == text.index("norse men (")
    assert nearest(["Norse", "C++"], text) == text.index("C++")
    assert nearest(["absent"], text) is nearest([], text) is None


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("one", TokenPlace(4, 0.0)), ("four", TokenPlace(1, 3 / 5)), ("five", TokenPlace(0, 4 / 5))],
)
def test_a_place_in_tokens_by_hand(word, wanted):
    text = "one two three four five"
    assert in_tokens(text, text.index(word), WORDS) == wanted
    # A tokenizer that tells no offsets counts what comes before.
    plain = type("Plain", (), {"is_fast": False, "__call__": lambda self, text, **_: {"input_ids": text.split()}})()
    assert in_tokens(text, text.index(word), plain) == wanted


def test_a_place_inside_a_token_is_that_tokens():
    assert in_tokens("one twothree four", len("one two"), WORDS) == TokenPlace(1, 1 / 3)


@pytest.mark.parametrize("name", generator_names())
def test_generated_answers_stand_where_they_are_said_to(small_data, name):
    docs = synthetic.documents(name, [512], contexts=5, questions=4, seed=2)
    for doc in docs:
        prompt, answer = doc["context"] + doc["question"], doc["answers"][0]
        assert prompt[doc["place"] :].startswith(answer)
        # The question repeats the words before the answer, so it cannot be another mention of it.
        opening = doc["question"].strip().rpartition("Answer: ")[2]
        assert prompt[: doc["place"]].endswith(f"{opening} ")


@pytest.mark.parametrize("kind", ["vt", "cwe", "fwe"])
def test_several_answers_stand_nowhere_in_particular(kind):
    assert all(doc["place"] is None and doc["depth"] is None for doc in ruler.documents(kind, 1000, 3, 42, WORDS))


@pytest.mark.parametrize("kind", ["niah_single_1", "niah_multikey_2", "niah_multikey_3"])
def test_needles_stand_where_they_are_said_to(kind):
    for doc in ruler.documents(kind, 1000, 5, 42, WORDS):
        (answer,) = doc["answers"]
        assert doc["prompt"][doc["place"] :].startswith(f"{answer}.") and doc["prompt"].count(answer) == 1


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("form", ["fda", "swde", "squad", "nq", "triviaqa", "drop"])
def test_the_hubs_answers_stand_where_they_are_said_to(form, twice):
    docs = documents(form, hub_docs.DOCS[form if form != "nq" else "nq_512"], 2000, "head", WORDS, twice=twice)
    told = [doc for doc in docs if doc["survives"]]
    # DROP's answer is a sum, which no context holds.
    assert bool(told) == (form != "drop") and all((doc["place"] is None) == (not doc["survives"]) for doc in docs)
    for doc in told:
        after = doc["prompt"][doc["place"] :].lower()
        assert any(after.startswith(answer.lower()) for answer in doc["answers"])
    if twice:
        # It is the second copy that counts, which begins after half of the prompt or soon before.
        assert all(doc["place"] > 0.4 * len(doc["prompt"]) for doc in told)


def test_what_is_asked_is_no_mention_of_the_answer():
    (asked,) = documents("drop", [{**hub_docs.DROP[0], "answers": ["home side"]}], 2000, "head", WORDS)
    assert asked["prompt"].count("home side") == 2 and asked["place"] == asked["prompt"].index("home side")
    (asked,) = documents("fda", [{**hub_docs.FDA[1], "value": "Maker"}], 2000, "head", WORDS)
    assert asked["prompt"].endswith(" Maker:") and asked["place"] == asked["prompt"].index("maker)")
