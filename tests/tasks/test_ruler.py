"""RULER: what is asked, that it fits and fills, that the answers are right, recomputed from the prompts themselves."""

import itertools
import json
import re
import subprocess
import sys
from collections import Counter

import hub_docs
import numpy as np
import pytest

from nha_eval import building
from nha_eval.errors import UserError
from nha_eval.evaluate import known_suites
from nha_eval.given_data import look_over
from nha_eval.plan import ModelInfo, expand
from nha_eval.spec import Spec
from tasks.hub_data import read_local
from tasks.metrics import string_match_all, string_match_part
from tasks.ruler import KINDS, dataset, documents, material
from tasks.ruler.counting import CommonWords, FrequentWords
from tasks.ruler.niah import DEPTHS, Niah
from tasks.ruler.prompts import most_units
from tasks.ruler.questions import Questions
from tasks.ruler.tracking import Tracking
from tasks.ruler.wording import listed, single_words
from tasks.suites import suite_tasks
from tasks.tokenizing import counting_with

WORDS = hub_docs.word_tokenizer()
DATA = {
    "essays": material.sentences_of(hub_docs.ESSAYS),
    "ruler_squad": material.squad(hub_docs.SQUAD_ARTICLES),
    "hotpotqa": material.hotpotqa(hub_docs.HOTPOT),
}
SOURCE = {info.name.removeprefix("ruler_"): next(iter(dict(info.sources)), None) for info in suite_tasks("ruler")}
LEAST = {info.name.removeprefix("ruler_"): info.least_length for info in suite_tasks("ruler")}
NEEDLES = [kind for kind in KINDS if kind.startswith("niah")]
ROOM = {**dict.fromkeys(NEEDLES, 128), "vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}
# The longest sentence, or passage, in words; of cwe a number and a word three times; of fwe its shares are rounded.
UNIT = {"vt": 19, "cwe": 6, "fwe": 12, "qa_1": 20, "qa_2": 14}


def made(kind, length, count=3, seed=0):
    return documents(kind, length, count, seed, WORDS, DATA.get(SOURCE[kind]))


def tokens(doc):
    return len(WORDS(doc["prompt"])["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_hold_and_are_filled(kind):
    for length in sorted({LEAST[kind], 4096, 5000, 16384}):
        docs = made(kind, length)
        for doc in docs:
            assert length - max(UNIT.get(kind, 19), length // 1000) <= tokens(doc) + ROOM[kind] <= length
            assert doc["length"] == length
        assert len({doc["prompt"] for doc in docs}) == len(docs) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_the_same_wherever_they_are_made(kind):
    docs = made(kind, 4096)
    assert made(kind, 4096, 2) == docs[:2]
    assert made(kind, 4096, 1, seed=1)[0]["prompt"] != docs[0]["prompt"]
    np.random.seed(5)
    assert made(kind, 4096) == docs


def test_another_process_makes_the_same():
    code = (
        "import sys, zlib, hub_docs; from tasks.ruler import documents;"
        "print(*[zlib.crc32(doc['prompt'].encode()) for kind in ('niah_multikey_3', 'vt', 'cwe', 'fwe')"
        " for doc in documents(kind, 2048, 2, 0, hub_docs.word_tokenizer())])"
    )
    runs = []
    for salt in "12":
        environment = {"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": "/usr/bin:/bin"}
        runs.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True))
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.split()) == 8


def parts(doc):
    """(instruction, haystack, question) of a needle task's prompt."""
    head, _, rest = doc["prompt"].partition("afterwards.\n")
    haystack, _, question = rest.rpartition("\n")
    return head, haystack, question


@pytest.mark.parametrize("kind", NEEDLES)
def test_needles_are_in_the_haystack_once_and_asked_for(kind):
    for doc in made(kind, LEAST[kind], 5):
        _, haystack, question = parts(doc)
        several = kind in ("niah_multivalue", "niah_multiquery")
        asked = re.search(r"special magic (?:number|uuid)s? for (.+?) mentioned", question)[1]
        keys = re.split(r", and |, ", asked)
        assert len(keys) == (4 if kind == "niah_multiquery" else 1)
        found = {key: re.findall(rf"magic \w+ for {re.escape(key)} is: ([0-9a-f-]+)\.", haystack) for key in keys}
        assert [value for key in keys for value in found[key]] == doc["answers"] or kind == "niah_multivalue"
        assert sorted(value for key in keys for value in found[key]) == sorted(doc["answers"])
        assert len(doc["answers"]) == len(set(doc["answers"])) == len(doc["depths"]) == (4 if several else 1)
        assert question.endswith(f"for {asked} mentioned in the provided text {'are' if several else 'is'}")
        needles = re.findall(r"One of the special magic", haystack)
        assert len(needles) == {"niah_single_1": 1, "niah_single_2": 1, "niah_single_3": 1}.get(kind, 4) or "multikey_" in kind
        assert (doc["depth"] is None) == several


@pytest.mark.parametrize("kind", [kind for kind in NEEDLES if SOURCE[kind]])
def test_needles_in_essays_lie_at_the_depths_said(kind):
    """Depths are of 40; so many of the essays' sentences stand before the needle, counted in the prompt."""
    seen = set()
    for doc in made(kind, 4096, 40):
        haystack = parts(doc)[1]
        whole = len(re.findall("Essay", haystack))
        assert haystack.startswith(("Essay 0 says in line 0", "One of"))
        for answer, depth in zip(doc["answers"], doc["depths"], strict=True):
            before = len(re.findall("Essay", haystack[: haystack.index(answer)]))
            assert before == int(whole * depth)
            assert round(100 * depth) in DEPTHS
            seen.add(depth)
    assert len(set(DEPTHS)) == 40 and (DEPTHS[0], DEPTHS[-1]) == (0, 100)
    assert len(seen) > 20


@pytest.mark.parametrize("kind", [kind for kind in NEEDLES if not SOURCE[kind]])
def test_other_needles_lie_anywhere(kind):
    docs = made(kind, 1024, 200)
    for doc in docs:
        lines = parts(doc)[1].split("\n")
        assert doc["answers"][0] in lines[round(doc["depth"] * (len(lines) - 1))]
    share, _ = np.histogram([doc["depth"] for doc in docs], bins=4, range=(0, 1))
    assert share.min() > 0.6 * len(docs) / 4


def test_a_prompt_by_hand():
    """The words around the haystack, the sentence and the needle are RULER's; 512 tokens hold 17 sentences of 19 words."""
    (doc,) = made("niah_single_1", 512, 1)
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


def test_chains_are_right():
    """Solved by a reader of assignments that knows nothing of how they were written; the example too."""
    for doc in made("vt", 4096, 20):
        example, _, asked = doc["prompt"].partition("\n\n\n\n")
        for text in (example, asked):
            context, _, question = text.partition("\nQuestion: ")
            value = re.search(r"assigned the value (\d+) in the text above", question)[1]
            known = {value}
            order = []
            for name, given in re.findall(r"VAR ([A-Z]+) = (?:VAR )?(\w+)", context):
                assert name not in order
                if given in known:
                    known.add(name)
                    order.append(name)
            said = re.search(r"text above, (\d+) variables are assgined the value (\d+), they are:(.*)", question)
            assert (int(said[1]), said[2]) == (len(order), value) == (5, value)
            if text is asked:
                assert order == doc["answers"] and said[3] == ""
            else:
                assert said[3].split() == order
        assert len(WORDS(example)["input_ids"]) + 30 <= 500
        assert not any(answer in example for answer in doc["answers"])
        assert doc["depths"] == sorted(set(doc["depths"]))


@pytest.mark.parametrize(("length", "often", "seldom"), [(2048, 6, 1), (4096, 30, 3), (16384, 30, 3)])
def test_common_words_are_counted_right(length, often, seldom):
    for doc in made("cwe", length, 4):
        texts = [text.partition("\nQuestion: ")[0] for text in doc["prompt"].split("\nBelow is")]
        lists = [re.findall(r"(\d+)\. (\S+)", text) for text in texts]
        for items in lists:
            assert [int(number) for number, _ in items] == list(range(1, len(items) + 1))
        example, counts = (Counter(word for _, word in items) for items in lists)
        assert {word for word, n in counts.items() if n == often} == set(doc["answers"]) and len(doc["answers"]) == 10
        assert set(counts.values()) == {often, seldom}
        solved = re.findall(r"\d+\. (\S+)", doc["prompt"].partition("in the list are:")[2].partition("\nBelow")[0])
        most = max(example.values())
        assert sorted(solved) == sorted(word for word, n in example.items() if n == most) and len(solved) == 10
        # Pairs throughout, or nowhere, so that being one tells nothing.
        assert len({"-" in word for word in [*example, *counts]}) == 1


def test_frequent_words_are_counted_right():
    for length in (512, 4096, 16384):
        for doc in made("fwe", length, 5):
            coded = doc["prompt"].partition("three most frequently appeared coded words. ")[2].partition("\nQuestion")[0]
            counts = Counter(coded.split())
            noise = counts.pop("...")
            ranked = counts.most_common()
            assert [word for word, _ in ranked[:3]] == doc["answers"]
            assert noise > ranked[0][1] > ranked[1][1] > ranked[2][1] > ranked[3][1]
            assert all(re.fullmatch("[a-z]{6}", word) for word in counts)
            # 1/4, 1/9 and 1/16 of the noise, each rounded down.
            assert [n for _, n in ranked[:3]] == pytest.approx([noise / 4, noise / 9, noise / 16], abs=1)


@pytest.mark.parametrize("kind", ["qa_1", "qa_2"])
def test_questions_stand_on_their_passages(kind):
    data = DATA[SOURCE[kind]]
    docs = made(kind, 4096, 500)
    assert len(docs) == len(data.questions) == {"qa_1": 12, "qa_2": 6}[kind]
    for doc, question in zip(docs, data.questions, strict=True):
        passages = re.split(r"\n*Document \d+:\n", doc["prompt"].partition("\n\nAnswer the question")[0])[1:]
        assert doc["prompt"].endswith(f"\n\nQuestion: {question.text} Answer:")
        gold = [data.texts[i] for i in question.gold]
        assert [passages.count(text) for text in gold] == [1] * len(gold)
        assert any(answer in text for text in gold for answer in doc["answers"])
        assert doc["depths"] == [i / len(passages) for i, text in enumerate(passages) if text in gold]
    assert len({doc["context_id"] for doc in docs}) == len(docs)


def test_squads_other_passages_are_of_the_same_article_first():
    data = DATA["ruler_squad"]
    prompt = Questions("qa_1", data).build(0, np.random.default_rng(0), units=4)
    shown = [i for i, text in enumerate(data.texts) if text in prompt.text]
    assert sorted(shown) == sorted([*data.questions[0].gold, *data.questions[0].near]) and len(shown) == 4
    assert len({text for text in data.texts if text in Questions("qa_1", data).build(0, np.random.default_rng(0), 6).text}) == 6
    assert data.questions[0].answers == ("Ada0x0 Lind", "Ada0x0")


@pytest.mark.parametrize("units", range(1, 40, 7))
def test_the_search_ends_just_below(units):
    def uneven(n):
        return 13 + 10 * n + (n % 3)

    for guess in (1, 5, 400):
        found = most_units(uneven, uneven(units), 1, guess)
        assert uneven(units) - 12 < uneven(found) <= uneven(units)
    assert most_units(uneven, 20, 1, 50) is None
    calls = []
    assert most_units(lambda n: calls.append(n) or 1 + 1000 * (n > 500), 900, 1, 1) is not None
    assert len(calls) <= 64
    with pytest.raises(ValueError, match="finds no tokens in a whole text"):
        most_units(lambda n: 0, 900, 1, 1)


def test_no_word_stands_inside_another():
    words = [*listed("adjectives"), *listed("nouns")]
    assert len(words) == len(set(words)) == single_words()
    assert not [(a, b) for a, b in itertools.permutations(words, 2) if a in b]
    assert all(re.fullmatch("[a-z]+", word) for word in words)


@pytest.mark.parametrize(
    ("answers", "generated", "every", "some"),
    [
        (["4821", "77"], " 4821 and 77.", 1.0, 1.0),
        (["4821", "77"], " 4821.", 0.5, 1.0),
        (["Ada Lind", "Lind"], " lind", 0.5, 1.0),
        (["a", "b", "c", "d"], "x", 0.0, 0.0),
        (["a.c", "DEF"], "abc def", 0.5, 1.0),
        (["one"], "", 0.0, 0.0),
    ],
)
def test_metrics_by_hand(answers, generated, every, some):
    """Of two accepted answers one is enough for questions, where lm-eval would give a half."""
    assert string_match_all({"answers": answers}, [generated]) == {"string_match_all": every}
    assert string_match_part({"answers": answers}, [generated]) == {"string_match_part": some}


def test_tokens_left_to_the_answer_are_those_generated():
    for info in suite_tasks("ruler"):
        kind = info.name.removeprefix("ruler_")
        task = building.build(
            info.name,
            {"lengths": [4096], "contexts": 1},
            data={} if SOURCE[kind] is None else {SOURCE[kind]: DATA_FILES[SOURCE[kind]]},
            tokenizer=WORDS,
        )["tasks"][info.name]
        assert task.config.generation_kwargs["max_gen_toks"] == ROOM[kind]
        assert len(task.test_docs()) == 1
    for asker in (Niah, Tracking, CommonWords, FrequentWords, Questions):
        assert asker.answer_room in ROOM.values()


@pytest.fixture(autouse=True, scope="module")
def files(tmp_path_factory):
    DATA_FILES.update(hub_docs.write_all(tmp_path_factory.mktemp("ruler")))


DATA_FILES: dict[str, str] = {}


def test_essays_in_every_shape(tmp_path):
    whole = " ".join(essay["text"] for essay in hub_docs.ESSAYS)
    (tmp_path / "essays.txt").write_text(whole)
    (tmp_path / "folder").mkdir()
    for number, essay in enumerate(hub_docs.ESSAYS):
        (tmp_path / "folder" / f"{number}.txt").write_text(essay["text"] + "\n\n")
    (tmp_path / "one.json").write_text(json.dumps({"text": whole}))
    (tmp_path / "list.json").write_text(json.dumps(hub_docs.ESSAYS))
    hub_docs.write(tmp_path / "splits" / "train.jsonl", hub_docs.ESSAYS)
    for given in ("essays.txt", "folder", "one.json", "list.json", "splits"):
        assert material.read("essays", tmp_path / given) == DATA["essays"], given
    assert len(DATA["essays"]) == 120
    assert material.sentences_of('He said "No." Then (so?) it went on. e.g. this. 4 of 5! Yes') == (
        'He said "No."',
        "Then (so?) it went on. e.g. this.",
        "4 of 5!",
        "Yes",
    )


def test_questions_in_the_hubs_schema_are_the_same(tmp_path):
    rows = [
        {
            "title": article["title"],
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": {"text": [answer["text"] for answer in asked["answers"]], "answer_start": [0] * len(asked["answers"])},
        }
        for article in hub_docs.SQUAD_ARTICLES["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
    path = hub_docs.write(tmp_path / "validation.jsonl", rows)
    assert material.read("ruler_squad", path) == DATA["ruler_squad"]
    rows = [
        {**row, "context": {"title": [t for t, _ in row["context"]], "sentences": [s for _, s in row["context"]]}}
        for row in hub_docs.HOTPOT
    ]
    path = hub_docs.write(tmp_path / "distractor" / "validation.jsonl", rows)
    assert material.read("hotpotqa", path) == material.read("hotpotqa", tmp_path) == DATA["hotpotqa"]
    assert len(read_local(path)["validation"]) == 6


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("essays", "  ", r"essays.txt' cannot be read: it holds no text: wanted is a .txt file, a folder of them"),
        ("essays", None, r"no such data: .*essays.txt': wanted is a .txt file"),
        ("ruler_squad", '{"data": [{"title": "a"}]}', r"cannot be read: it lacks 'paragraphs': wanted is SQuAD's JSON"),
        ("ruler_squad", '{"data": []}', "it holds no question with an answer"),
        ("ruler_squad", "{", "cannot be read: Expecting property name"),
        ("hotpotqa", '[{"question": "a", "answer": "b"}]', "it lacks 'context': wanted is HotpotQA's JSON"),
        ("hotpotqa", "[1]", "cannot be read: .*wanted is HotpotQA's JSON"),
    ],
)
def test_data_that_cannot_be_used_is_one_line(tmp_path, source, content, message):
    path = tmp_path / f"{source}.{'txt' if source == 'essays' else 'json'}"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        material.read(source, path)
    known = [task for members in known_suites().values() for task in members]
    with pytest.raises(UserError, match=f"--data {source}=") as told:
        look_over({source: str(path)}, suite_tasks("ruler"), known)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "single_9"}, "no task of RULER named 'single_9'"),
        ({"lengths": [150]}, "length 150 cannot hold the question"),
        ({"lengths": [4096, 4095], "least_length": 4096}, "niah_single_1: length 4095 is too short, the least is 4096 tokens"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with counting_with(WORDS), pytest.raises(ValueError, match=message):
        dataset(**{"kind": "niah_single_1", "lengths": [512], "contexts": 1, **settings})


def test_the_suite_refuses_short_lengths_at_once():
    suites = known_suites()
    spec = Spec.model_validate({"models": ["a"], "suites": ["ruler"], "lengths": [2048], "costs": False})
    with pytest.raises(UserError, match=r"length 2048 is too short for ruler_\w+, whose least is 4096 tokens: give a longer"):
        expand(spec, [ModelInfo("a", "a", "w", "full", 200_000)], suites)
    assert LEAST["qa_1"] == LEAST["qa_2"] == 4096
    whole = expand(spec.model_copy(update={"lengths": []}), [ModelInfo("a", "a", "w", "full", 200_000)], suites)
    assert len(whole) == 13 * 6
    assert {cell.length for cell in whole} == {4096, 8192, 16384, 32768, 65536, 131072}


def test_suites_hold_what_they_say():
    names = {info.name for info in suite_tasks("ruler")}
    local = {info.name for info in suite_tasks("ruler-local")}
    assert len(names) == 13 and names == {f"ruler_{kind}" for kind in KINDS}
    assert local == {f"ruler_{kind}" for kind, source in SOURCE.items() if source is None} and len(local) == 6


@pytest.mark.parametrize("kind", [kind for kind, source in SOURCE.items() if source])
def test_without_the_hub_the_task_is_unavailable(kind):
    from models.assets import AssetUnavailable

    with pytest.raises(AssetUnavailable, match=f"the data of task 'ruler_{kind}' cannot be had"):
        building.build(f"ruler_{kind}", {"lengths": [4096]}, tokenizer=WORDS)
