"""The recall text: every fact can be looked up, distances are as said, and nothing of the evaluation's tasks is in it."""

import re

import numpy as np
import pytest
from tiny_lm import make_tokenizer, words

from nha_eval.text import recall_words
from nha_eval.text.recall_forms import Fact
from nha_eval.text.recall_sequences import Passages, RecallSequences
from nha_eval.text.recall_text import FORMS, QUOTATION, form_names, recall_document
from tasks import filler
from tasks.ruler import counting, niah, questions, tracking
from tasks.synthetic import documents as task_documents
from tasks.synthetic import facts, needle, phonebook

STREAM = np.random.default_rng


def passage(rng, characters):
    """Numbered words, none twice, so that nothing in them could be a fact."""
    return " ".join(f"w{int(rng.integers(10**9))}" for _ in range(max(1, characters // 11)))


def test_there_are_many_forms_with_many_wordings():
    assert len(form_names()) >= 12 and len(set(form_names())) == len(form_names())
    for name, form in FORMS.items():
        made = [form(STREAM(seed), 3) for seed in range(60)]

        def bare(fact: Fact, text: str) -> str:
            return re.sub(r"\W+", " ", text.replace(fact.value, "V"))[:12]

        assert len({bare(fact, fact.restated) for sheet in made for fact in sheet.facts}) >= 3, name
        assert len({sheet.opening[:14] for sheet in made}) >= 3, name


@pytest.mark.parametrize("form", FORMS)
def test_every_question_has_its_answer_in_what_was_stated(form):
    for seed in range(40):
        count = 1 + seed % 9
        sheet = FORMS[form](STREAM(seed), count)
        assert len(sheet.facts) == count
        for fact in sheet.facts:
            assert fact.value in fact.stated and fact.value in fact.restated and fact.value not in fact.question
        # A question is about one fact: no two facts give one question different answers.
        asked = {}
        for fact in sheet.facts:
            assert asked.setdefault(fact.question, fact.value) == fact.value


@pytest.mark.parametrize("form", form_names())
@pytest.mark.parametrize("characters", [300, 4000, 30_000])
def test_documents_state_before_they_ask_and_are_as_long_as_asked(form, characters):
    for seed in range(4):
        text = recall_document(STREAM(seed), characters, passage, form)
        assert text == recall_document(STREAM(seed), characters, passage, form)
        assert len(text) <= 1.5 * characters + 700
        assert form == QUOTATION or characters < 4000 or len(text) >= 0.5 * characters
        if form == QUOTATION:
            quoted = max((word for word in re.findall(r"w\d+", text)), key=text.count)
            assert text.count(quoted) == 2
            continue
        sheet_text = re.sub(r"(w\d+ ?)+", "", text)
        count = sheet_text.count("\n\n") + 1
        assert count >= 2


def test_distances_go_from_tens_to_thousands_of_tokens():
    """Of passages quoted again, where the distance can be seen in the text."""
    distances = []
    for seed in range(100):
        text = recall_document(STREAM(seed), 20_000, passage, QUOTATION)
        first, places = "", {}
        for found in re.finditer(r"w\d+", text):
            if found[0] in places:
                first = found[0]
                distances.append(found.start() - places[first])
                break
            places[found[0]] = found.start()
        assert first
    distances = np.array(distances)
    assert (distances < 1500).mean() > 0.1 and (distances > 8000).mean() > 0.15
    assert distances.max() > 12_000


@pytest.mark.parametrize("form", FORMS)
def test_facts_are_asked_after_they_are_stated(form):
    for seed in range(12):
        sheets = []
        real = FORMS[form]
        try:
            FORMS[form] = lambda rng, count, real=real, sheets=sheets: sheets.append(real(rng, count)) or sheets[-1]
            text = recall_document(STREAM(seed), 6000, passage, form)
        finally:
            FORMS[form] = real
        (sheet,) = sheets
        for fact in sheet.facts:
            place = text.index(fact.stated)
            asked = [text.find(part, place + len(fact.stated)) for part in (fact.restated, fact.question)]
            assert max(asked) > place, (form, seed, fact)
            assert not any(0 <= text.find(part) < place for part in (fact.restated, fact.question))


# Words that carry a sentence and no content: what two texts may share in a row.
STOP = frozenset(
    filler.words(
        "a an the of and or in on at by to for from with as is are was were be been it its this that these those there he she "
        "they i you we his her their my your who whom whose which what when where how not no do does did has have had will"
    )
)


def shingles(text):
    """Runs of five words of which at least two carry content."""
    found = re.findall(r"[a-z0-9]+", text.lower())
    runs = (tuple(found[i : i + 5]) for i in range(len(found) - 4))
    return {run for run in runs if sum(word not in STOP for word in run) >= 2}


def task_prompts():
    """Prompts of the tasks that this project generates, several hundred; their essays and passages are other people's."""
    texts = []
    for name in ("needle", "facts", "phonebook"):
        for doc in task_documents(name, [512, 1024], 25, 4, seed=0):
            texts.append(doc["context"] + doc["question"] + " " + doc["answers"][0])
    return texts


def template_texts():
    """The wordings of RULER's tasks, out of their modules."""
    found = []
    for module in (counting, niah, questions, tracking):
        for value in vars(module).values():
            parts = value if isinstance(value, tuple | list) else value.values() if isinstance(value, dict) else [value]
            found += [part for part in parts if isinstance(part, str)]
    return [re.sub(r"\{.*?\}", "x", text) for text in found if len(text.split()) >= 5]


@pytest.fixture(scope="module")
def of_tasks():
    prompts = task_prompts()
    assert len(prompts) >= 300
    return set().union(*map(shingles, [*prompts, *template_texts()]))


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_shared_with_the_tasks_prompts(form, of_tasks):
    assert len(of_tasks) > 5000
    for seed in range(200):
        sheet = FORMS[form](STREAM([seed, 7]), 5)
        parts = [sheet.opening, sheet.closing]
        parts += [f"{fact.stated} {fact.question} {fact.value} {fact.restated}" for fact in sheet.facts]
        for part in parts:
            assert not shingles(part) & of_tasks


def test_no_name_or_value_is_one_of_the_tasks():
    theirs = set()
    for module in (filler, facts, needle, phonebook):
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, list):
                theirs |= {entry.lower() for entry in value}
    assert len(theirs) > 400
    for name, value in vars(recall_words).items():
        if name.isupper() and name not in ("T", "WEEKDAYS") and isinstance(value, list | tuple):
            shared = {entry.lower() for entry in value} & theirs
            assert not shared, (name, shared)


@pytest.fixture(scope="module")
def training():
    tokenizer = make_tokenizer()
    rows = []
    for seed in range(40):
        sentences = [f"{words(12, 100 * seed + i).capitalize()} {100 * seed + i}." for i in range(30)]
        rows += [*tokenizer(" ".join(sentences))["input_ids"], tokenizer.eos_token_id]
    return np.array(rows, np.uint16), tokenizer


def test_passages_are_whole_sentences_of_one_document(training):
    tokens, tokenizer = training
    passages = Passages(tokens, tokenizer, tokenizer.eos_token_id)
    whole = [tokenizer.decode(part) for part in np.split(tokens, np.flatnonzero(tokens == tokenizer.eos_token_id))]
    for seed in range(100):
        text = passages.take(STREAM(seed), 400)
        assert 0 < len(text) <= 400 and any(text in document for document in whole)
        assert re.fullmatch(r"[A-Z].*\d\.", text)
    lengths = [len(passages.take(STREAM(seed), 400)) for seed in range(100)]
    assert np.median(lengths) > 250
    assert passages.take(STREAM(1), 400) == passages.take(STREAM(1), 400) != passages.take(STREAM(2), 400)


@pytest.mark.parametrize("length", [64, 300, 2000])
def test_a_sequence_is_full_and_a_function_of_its_number(training, length):
    tokens, tokenizer = training
    separator = tokenizer.eos_token_id
    passages = Passages(tokens, tokenizer, separator)
    made = RecallSequences(passages, tokenizer, separator, length, 5)
    found = [made[i]["input_ids"] for i in range(6)]
    assert all(ids.shape == (length,) and ids.dtype == np.int64 for ids in found)
    again = RecallSequences(Passages(tokens, tokenizer, separator), tokenizer, separator, length, 5)
    assert (again[4]["input_ids"] == found[4]).all() and (found[0] != found[1]).any()
    other = RecallSequences(passages, tokenizer, separator, length, 6)
    assert (other[0]["input_ids"] != found[0]).any()
    # Documents begin where the one before ends, in both packings.
    packed = RecallSequences(passages, tokenizer, separator, length, 5, documents=True)[2]
    assert (packed["input_ids"] == found[2]).all()
    starts = np.flatnonzero(packed["position_ids"] == 0)
    assert (found[2][starts[1:] - 1] == separator).all() and len(starts) >= (found[2][:-1] == separator).sum()
