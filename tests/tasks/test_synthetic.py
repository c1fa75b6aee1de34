"""Generated recall documents: lengths, depths, shared contexts, determinism, answers that stand where they should."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from tasks.counting import count_tokens
from tasks.synthetic import dataset, documents, generator, generator_names

WITHOUT_DATA = [name for name in generator_names() if not generator(name).NEEDS]


@pytest.mark.parametrize("name", generator_names())
@pytest.mark.parametrize("length", [256, 512, 1000, 4096])
def test_documents_keep_their_promises(small_data, name, length):
    if name == "squad" and length > 2000:
        pytest.skip("the stand-in data has too few passages")
    docs = documents(name, [length], contexts=4, questions=4, seed=3)
    assert len(docs) >= 8
    by_context: dict[str, list[dict]] = {}
    for doc in docs:
        by_context.setdefault(doc["context_id"], []).append(doc)
        tokens = count_tokens(doc["context"] + doc["question"] + " " + doc["answers"][0])
        assert 0.9 * length <= tokens <= 1.05 * length
        assert doc["context"].count(doc["answers"][0]) == 1 or name == "squad"
        assert doc["answers"][0] in doc["context"]
        assert doc["answers"][0] not in doc["question"]
        assert 0 <= doc["depth"] <= 1
        assert doc["length"] == length
    assert len(by_context) == 4
    for group in by_context.values():
        assert len({doc["context"] for doc in group}) == 1
        assert len({doc["question"] for doc in group}) == len(group)
    assert len({doc["context"] for doc in docs}) == 4


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_the_question_repeats_the_sentence_and_depths_are_even(name):
    docs = documents(name, [1024], contexts=50, questions=4, seed=0)
    for doc in docs:
        assert f"{doc['question'].strip()} {doc['answers'][0]}." in doc["context"]
        place = doc["context"].index(doc["question"].strip()) / len(doc["context"])
        assert doc["depth"] == pytest.approx(place, abs=0.03)
    share, _ = np.histogram([doc["depth"] for doc in docs], bins=4, range=(0, 1))
    assert share.min() > 0.7 * len(docs) / 4


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_answers_cannot_be_guessed(name):
    answers = [doc["answers"][0] for doc in documents(name, [256], contexts=100, questions=4, seed=1)]
    commonest = max(answers.count(answer) for answer in set(answers))
    assert commonest / len(answers) < 0.08


def digest(docs: list[dict]) -> str:
    return hashlib.sha256(json.dumps(docs, sort_keys=True).encode()).hexdigest()


def test_the_same_in_another_process():
    settings = {"lengths": [512], "contexts": 3, "questions": 3, "seed": 7}
    program = f"""
import hashlib, json
from tasks.synthetic import documents
docs = [documents(name, **{settings!r}) for name in {WITHOUT_DATA!r}]
print([hashlib.sha256(json.dumps(d, sort_keys=True).encode()).hexdigest() for d in docs])
"""
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert other == str([digest(documents(name, **settings)) for name in WITHOUT_DATA])


@pytest.mark.parametrize("name", generator_names())
def test_more_contexts_leave_the_first_as_they_were(small_data, name):
    few = documents(name, [512], contexts=2, questions=4, seed=0)
    many = documents(name, [512, 1024], contexts=4, questions=4, seed=0)
    assert many[: len(few)] == few
    assert documents(name, [512], contexts=2, questions=4, seed=1)[0] != few[0]


@pytest.mark.parametrize("name", generator_names())
def test_too_short_a_length_is_refused(small_data, name):
    with pytest.raises(ValueError, match=f"{name}: length 40 is too short; the least is"):
        documents(name, [40], contexts=1, questions=1, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator": "needel"}, "did you mean 'needle'"),
        ({"lengths": []}, "lengths is empty"),
        ({"lengths": ["long"]}, "lengths: 'long' given"),
        ({"contexts": 0}, "contexts: 0 given"),
        ({"questions": 1000}, "at most"),
        ({"seed": -1}, "seed: -1 given"),
    ],
    ids=["generator", "no lengths", "length", "contexts", "questions", "seed"],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        dataset(**{"generator": "needle", "contexts": 1, **settings})


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("The phone number of Anna Keller is 4821.", 12), ("extraordinarily", 3), ("a-b", 3), ("übermut 12", 3)],
)
def test_counting(text, tokens):
    assert count_tokens(text) == tokens


@pytest.mark.assets
def test_lengths_are_close_by_a_real_tokenizer():
    from transformers import AutoTokenizer

    from models.assets import smollm2_folder

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    for name in generator_names():
        lengths = [
            len(tokenizer(doc["context"] + doc["question"] + " " + doc["answers"][0])["input_ids"])
            for doc in documents(name, [1024], contexts=8, questions=4, seed=0)
        ]
        bound = 0.03 if name in WITHOUT_DATA else 0.06
        assert np.mean(lengths) == pytest.approx(1024, rel=bound), name
