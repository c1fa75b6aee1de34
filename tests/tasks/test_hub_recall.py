"""Recall tasks under `pla`: cuts, prompts, answers and what is left out, worked out by hand from the protocol."""

import hub_docs
import pytest
from lm_eval.tasks import TaskManager

from tasks import TASKS_PATH
from tasks.hub_data import read_local
from tasks.hub_recall import dataset, documents, source_for
from tasks.hub_recall.cutting import cut
from tasks.suites import suite_tasks
from tasks.tokenizing import counting_with

WORDS = hub_docs.word_tokenizer()
LONG = 2000
# With 62, a context keeps 12 words.
SHORT = 62


def prompts(form, docs=None, length=LONG, policy="around-answer", twice=False, tokenizer=WORDS):
    docs = documents(form, docs or hub_docs.DOCS[form if form != "nq" else "nq_512"], length, policy, tokenizer, twice=twice)
    return [doc["prompt"] for doc in docs]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # Around "Device Name", the key's first place, six words before it; the last "key:" is asked in the prompt's own words.
        ("fda", "g h i j k l Device Name: Lumo Pump m n. Device name:"),
        # Ten words stand before the summary, and the value, the seventh, has six before it.
        ("swde", "The Quiet Harbour was made in 1983 by Ada Lind. Year:"),
        # "Harald" is the sixth word: nothing goes before, twelve words stay and the sentence to complete loses its end.
        ("squad", "The mill was built by Harald Senn. It still stands. The mill"),
        # "spring" is the thirteenth word: six go before it, and five come after.
        ("nq", "the red bridge was opened in spring seven eight nine ten eleven. the bridge was opened in"),
        # The first twelve words, the three marks among them, which go afterwards.
        ("triviaqa", "Vesper  Vesper is a ship. It sank near Tarn. Vesper sank near the town of"),
        (
            "drop",
            "The home side scored 7 points, then 3 more. The visitors scored. The number of points scored by the home side is",
        ),
    ],
)
def test_cut_prompts(form, expected):
    policy = "head" if form in ("triviaqa", "drop") else "around-answer"
    assert prompts(form, length=SHORT, policy=policy)[0] == expected


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "fda",
            "a b c d e f g h i j k l Device Name: Lumo Pump m n o p q r s t u v w x. Device name:",
        ),
        ("swde", "The Quiet Harbour was made in 1983 by Ada Lind. Year:"),
        ("squad", "The mill was built by Harald Senn. It still stands. The mill was built by"),
        (
            "nq",
            "one two three four five six the red bridge was opened in spring seven eight nine ten eleven twelve. "
            "the bridge was opened in",
        ),
        (
            "triviaqa",
            "Vesper  Vesper is a ship. It sank near Tarn in winter after a long voyage to the north. "
            "Vesper sank near the town of",
        ),
        (
            "drop",
            "The home side scored 7 points, then 3 more. The visitors scored none. "
            "The number of points scored by the home side is",
        ),
    ],
)
def test_whole_prompts(form, expected):
    assert prompts(form)[0] == expected


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("fda", "Information about Maker. {0}\n{0} Maker:"),
        ("swde", "Information about Year. {0}\n{0} Year:"),
        ("squad", "Who built the mill? {0}\n{1}"),
        ("nq", "when was the bridge opened {0}\n{0} the bridge was opened in"),
        ("triviaqa", "Near which town did Vesper sink? {0}\n{0} Vesper sank near the town of"),
        ("drop", "How many points did the home side score? {0}\n{0} The number of points scored by the home side is"),
    ],
)
def test_the_context_stands_twice(form, expected):
    contexts = {
        "fda": ["a b c d e f g h i j k l made by Orla m n o p q r s t u v w x (the maker)."],
        "swde": ["The Quiet Harbour was made in 1983 by Ada Lind."],
        "squad": [
            "The mill was built by Harald Senn. It still stands. ",
            "The mill was built by Harald Senn. It still stands. The mill was built by",
        ],
        "nq": ["one two three four five six the red bridge was opened in spring seven eight nine ten eleven twelve."],
        "triviaqa": ["Vesper  Vesper is a ship. It sank near Tarn in winter after a long voyage to the north."],
        "drop": ["The home side scored 7 points, then 3 more. The visitors scored none."],
    }
    assert prompts(form, twice=True)[-1] == expected.format(*contexts[form])


def test_key_or_value_whichever_first():
    """ "Orla" stands before "maker", so the window is around it: words 8 to 19."""
    assert prompts("fda", length=SHORT)[1] == "i j k l made by Orla m n o p q. Maker:"


def test_what_has_no_answer_is_left_out():
    docs = documents("fda", hub_docs.FDA, LONG, "around-answer", WORDS)
    assert [doc["item"] for doc in docs] == [0, 1]
    assert [doc["answers"] for doc in docs] == [["Lumo Pump"], ["Orla"]]
    assert [doc["context_id"] for doc in docs] == ["fda-K1.txt", "fda-K1.txt"]
    blank = [
        {**hub_docs.DROP[0], "answers": [" "]},
        {**hub_docs.DROP[0], "answers": ["7"]},
        {**hub_docs.DROP[0], "answers": []},
        {**hub_docs.DROP[0], "answers": ["", "7"]},
    ]
    # Where the protocol does not look for the answer, one character is an answer as any other; whatever the policy.
    assert [doc["item"] for doc in documents("drop", blank, LONG, "head", WORDS)] == [1, 3]
    assert [doc["item"] for doc in documents("drop", blank, LONG, "around-answer", WORDS)] == [1, 3]
    assert [doc["item"] for doc in documents("fda", hub_docs.FDA, LONG, "head", WORDS)] == [0, 1]


@pytest.mark.parametrize(
    ("policy", "kept", "truncated"),
    [
        ("around-answer", "d e f g h i", True),
        ("head", "a b c d e f", True),
        ("left", "s t u v w x", True),
    ],
)
def test_policies(policy, kept, truncated):
    text = " ".join("abcdefghijklmnopqrstuvwx")
    found = cut(text, policy, 6, WORDS, place=text.index("g"))
    assert (found.text, found.truncated) == (kept, truncated)
    assert cut("a b c", policy, 6, WORDS).text == "a b c"


def test_policies_that_keep_nothing():
    assert cut("a b c d e f g", "skip", 6, WORDS) is None
    assert cut("a b c d e f", "skip", 6, WORDS).text == "a b c d e f"
    with pytest.raises(ValueError, match=r"7 tokens does not fit in 6: give a longer length, or another truncation"):
        cut("a b c d e f g", "error", 6, WORDS)
    with pytest.raises(ValueError, match=r"truncation 'middle': wanted is one of around-answer, left, head, skip, error"):
        cut("a", "middle", 6, WORDS)


def test_the_windows_corners():
    """The original's, to the token: half before the place even at the end, the end where nothing was found, `tok_pos` there."""
    text = " ".join("abcdefgh")
    assert cut(text, "around-answer", 6, WORDS, place=text.index("h")).text == "e f g h"
    assert cut(text, "around-answer", 6, WORDS, place=-1).text == "e f g h"
    assert cut(text, "around-answer", 6, WORDS, place=-1, token_place=4).text == "b c d e f g"
    assert cut("a b c d e f", "around-answer", 6, WORDS, place=-1, token_place=1).text == "c d e f"
    begun = hub_docs.word_tokenizer("<s>")
    # The beginning token counts as one, before the place as well as in the window, and is not written out.
    assert cut(text, "around-answer", 6, begun, place=text.index("c")).text == "a b c d e"
    assert cut(text, "around-answer", 6, begun, place=text.index("f")).text == "c d e f g h"
    assert cut(text, "head", 6, begun).text == "a b c d e"


def test_an_answer_may_not_survive():
    docs = documents("triviaqa", hub_docs.TRIVIAQA, 58, "head", WORDS)
    assert (docs[0]["truncated"], docs[0]["held"], docs[0]["survives"]) == (True, True, False)
    docs = documents("drop", hub_docs.DROP, LONG, "head", WORDS)
    assert (docs[0]["truncated"], docs[0]["held"], docs[0]["survives"]) == (False, False, False)


@pytest.mark.parametrize(
    ("length", "name"), [(256, "nq_512"), (512, "nq_512"), (1000, "nq_1024"), (2000, "nq_2048"), (9000, "nq_2048")]
)
def test_nq_is_read_at_the_length_it_was_made_for(length, name):
    sources = {f"nq_{size}": f"hub/{size}" for size in (512, 1024, 2048)}
    assert source_for(sources, length) == name
    assert source_for({"drop": "hub/drop"}, length) == "drop"


def load(name, data, **metadata):
    settings = {"lengths": [LONG], "data": data, **metadata}
    manager = TaskManager(include_path=str(TASKS_PATH), include_defaults=False, metadata=settings)
    with counting_with(WORDS):
        return manager.load(name)["tasks"][name]


@pytest.mark.parametrize("info", [*suite_tasks("recall"), *suite_tasks("recall-twice")], ids=lambda info: info.name)
def test_requests_and_scores_by_lm_eval(tmp_path, info):
    task = load(info.name, hub_docs.write_all(tmp_path), lengths=[SHORT, LONG])
    docs = list(task.test_docs())
    assert sorted({doc["length"] for doc in docs}) == [SHORT, LONG]
    assert (str(task.VERSION), task.config.metadata["protocol"]) == (info.version, info.protocol)
    task.build_all_requests()
    for doc, request in zip(docs, task.instances, strict=True):
        assert request.request_type == "generate_until"
        assert request.args == (doc["prompt"], {"until": ["\n"], "do_sample": False, "max_gen_toks": 48})
        assert task.process_results(doc, [task.doc_to_target(doc) + " and so on"]) == {"contains": 1.0}
        assert task.process_results(doc, [doc["answers"][-1].upper()]) == {"contains": 1.0}
        assert task.process_results(doc, ["something else"]) == {"contains": 0.0}


def test_local_data_in_every_shape(tmp_path):
    import datasets

    path = hub_docs.write(tmp_path / "nq.jsonl", hub_docs.NQ)
    docs = datasets.Dataset.from_list(hub_docs.NQ)
    docs.to_parquet(str(tmp_path / "nq.parquet"))
    docs.save_to_disk(str(tmp_path / "saved"))
    hub_docs.write(tmp_path / "splits" / "validation.jsonl", hub_docs.NQ)
    for given in (path, tmp_path / "nq.parquet", tmp_path / "saved", tmp_path / "splits"):
        assert read_local(given)["validation"].to_list() == hub_docs.NQ
        task = load("recall_pla_nq", {"nq": str(given)}, lengths=[512])
        assert [doc["prompt"] for doc in task.test_docs()] == prompts("nq")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"fda": "nowhere.jsonl"}}, "no such data: 'nowhere.jsonl': give a folder or a .jsonl"),
        ({"data": {"fda": "{folder}/drop.jsonl"}}, "fda: the documents lack key, value, text; they hold context, question"),
        ({"data": {"fda": "{folder}/notes.txt"}}, "notes.txt' cannot be read: wanted is a folder, or a file ending in .jsonl"),
        ({"data": {"fda": "{folder}/broken.jsonl"}}, "broken.jsonl' cannot be read"),
        ({"data": {"fda": "{folder}/other"}}, "has no split 'validation', only test: name a file validation.jsonl"),
        ({"form": "fdaa"}, "no form named 'fdaa'"),
        ({"lengths": [51], "truncation": "skip"}, r"fda: no document is left at lengths \[51\] under truncation 'skip'"),
        ({"tokenizer": None, "own": None}, "give `tokenizer`"),
    ],
    ids=["path", "schema", "kind", "broken", "split", "form", "nothing left", "tokenizer"],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    data = hub_docs.write_all(tmp_path)
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "broken.jsonl").write_text('{"key": \n')
    hub_docs.write(tmp_path / "other" / "test.jsonl", hub_docs.FDA)
    own = settings.pop("own", WORDS)
    settings = {"form": "fda", "sources": {"fda": "hazyresearch/based-fda"}, "lengths": [LONG], "data": data, **settings}
    settings["data"] = {name: path.format(folder=tmp_path) for name, path in settings["data"].items()}
    with counting_with(own), pytest.raises(ValueError, match=message):
        dataset(**settings)


def test_a_fixed_tokenizer_cuts_for_every_model(tmp_path):
    data = hub_docs.write_all(tmp_path)
    hub_docs.word_tokenizer("<s>").save_pretrained(str(tmp_path / "fixed"))
    own = load("recall_pla_triviaqa", data, lengths=[SHORT])
    fixed = load("recall_pla_triviaqa", data, lengths=[SHORT], tokenizer=str(tmp_path / "fixed"))
    assert own.test_docs()[0]["prompt"].startswith("Vesper  Vesper is a ship. It sank near Tarn.")
    assert fixed.test_docs()[0]["prompt"].startswith("Vesper  Vesper is a ship. It sank near.")
