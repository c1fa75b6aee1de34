"""Sources: files of every kind that is read, the hub by a stand-in, and what is refused, a line each."""

import gzip
import json
import socket
import time

import datasets
import pandas
import pytest
from huggingface_hub import constants

from models.assets import cache_dir
from nha_eval import hub
from nha_eval.errors import UserError
from nha_eval.text import stored
from nha_eval.text.documents import Document
from nha_eval.text.sources import open_source
from nha_eval.text.spec import TextSpec, make_text_spec
from tasks.assets import BIGBENCH
from tasks.suites import suite_names, suite_tasks

MOST = 10**6


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))


def refused(given, characters=MOST):
    with pytest.raises(UserError) as problem:
        list(open_source(given, characters).documents())
    assert "\n" not in str(problem.value)
    return str(problem.value)


def read(path, characters=MOST):
    return {document.name: document.text for document in open_source(str(path), characters).documents()}


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    folder = tmp_path / "books"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "one.txt").write_text("of one\r\nfile\r\n")
    (folder / "a.md").write_bytes("caf\xe9".encode("cp1252"))
    lines = [{"text": "first"}, {"text": ""}, {"text": "third", "url": "x"}]
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, lines)) + "\n\n")
    (folder / "d.jsonl").write_text(json.dumps({"text": "naïve \u2014 text"}))
    pandas.DataFrame({"id": [1, 2], "text": ["in a table", "and more"]}).to_parquet(folder / "e.parquet")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.txt").write_text("hidden")
    (folder / ".git").mkdir()
    (folder / ".git" / "note.txt").write_text("hidden")
    corpus = open_source(str(folder), MOST)
    found = {document.name: document.text for document in corpus.documents()}
    assert found == {
        "a.md": "café",
        "c.jsonl.gz": "first",
        "c.jsonl.gz:2": "third",
        "d.jsonl": "naïve — text",
        "e.parquet": "in a table",
        "e.parquet:1": "and more",
        "b/one.txt": "of one\nfile\n",
    }
    assert corpus.about["files"] == 5 and corpus.about["licence"] == "not stated"
    assert next(iter(corpus.documents())) == Document("café", str(folder), "a.md")


def test_the_digest_tells_what_is_in_the_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("same")
    digests = [open_source(str(tmp_path / name), MOST).digest for name in ("one", "two")]
    assert digests[0] == digests[1] != open_source(str(tmp_path / "one"), 3).digest
    (tmp_path / "two" / "a.txt").write_text("other")
    assert open_source(str(tmp_path / "two"), MOST).digest != digests[0]
    (tmp_path / "one" / "a.txt").rename(tmp_path / "one" / "b.txt")
    assert open_source(str(tmp_path / "one"), MOST).digest != digests[0]


def test_reading_stops_at_the_characters_asked_for(tmp_path, capsys):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text("x" * 10)
    assert list(read(tmp_path, 35)) == ["0.txt", "1.txt", "2.txt"]
    assert "read up to 3.txt, at 35 characters; the rest is left" in capsys.readouterr().err
    assert len(read(tmp_path, 50)) == 5 and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"text": "fine"}\n{"texts": "x"}\n', "a.jsonl, line 2: wanted is an object with text under 'text'"),
        ("a.jsonl", "[1]\n", "line 1: wanted is an object"),
        ("a.jsonl", "{text\n", "line 1: this is no JSON"),
        ("a.jsonl", "[" * 200_000, "line 1: this is no JSON"),
        ("a.jsonl.gz", "no gzip", "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.csv", "text\nx\n", "wanted is a folder, or a file ending in .txt, .md, .jsonl, .jsonl.gz, .parquet"),
    ],
    ids=["no text", "no object", "no JSON", "deep", "no gzip", "no parquet", "csv"],
)
def test_files_that_cannot_be_read_are_one_line(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    assert told in refused(str(tmp_path / name))


def test_a_table_without_text_is_one_line(tmp_path):
    pandas.DataFrame({"body": ["x"]}).to_parquet(tmp_path / "a.parquet")
    assert "no column 'text', only body" in refused(str(tmp_path / "a.parquet"))
    pandas.DataFrame({"text": [1]}).to_parquet(tmp_path / "b.parquet")
    assert "the column 'text' holds int: wanted is text" in refused(str(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("debain", "no such source: 'debain'; did you mean 'debian'?"),
        ("./nowhere", "no such source: './nowhere' is not there"),
        ("", "source is empty"),
        ("a\0b", "character that no file's name can have"),
        ("x/y/z", "is not there"),
    ],
)
def test_what_is_no_source_is_one_line(given, told):
    assert told in refused(given)


def test_a_folder_without_text_is_one_line(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    assert "holds no file ending in .txt" in refused(str(tmp_path))


def hub_ids():
    return sorted({hub_id for suite in suite_names() for task in suite_tasks(suite) for _, hub_id in task.sources})


def test_test_data_of_the_hub_is_refused():
    assert len(hub_ids()) > 10
    for hub_id in [*hub_ids(), "hazyresearch/based-anything", "SomebodyElse/based_fda", hub_ids()[0].upper() + ":config"]:
        if "/" in hub_id:
            assert "is test data" in refused(hub_id), hub_id


def test_test_data_in_caches_is_refused(tmp_path):
    asset = cache_dir() / BIGBENCH.name
    asset.mkdir(parents=True)
    (asset / "timedial.txt").write_text("x")
    for place in (asset, asset / "timedial.txt", cache_dir()):
        assert "test data" in refused(str(place))
    for name in (f"datasets--{hub_ids()[-1].replace('/', '--')}", hub_ids()[-1].replace("/", "___")):
        (tmp_path / name / "main").mkdir(parents=True)
        (tmp_path / name / "main" / "a.txt").write_text("x")
        assert "test data" in refused(str(tmp_path / name / "main"))


def test_documents_of_the_recall_tasks_are_refused_whatever_the_file_is_called(tmp_path):
    row = {"key": "k", "value": "v", "text": "t", "doc_id": "1"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row))
    assert "documents of the task fda (key, value, text), which models are tested on" in refused(str(tmp_path / "mine.jsonl"))
    pandas.DataFrame([row]).to_parquet(tmp_path / "mine.parquet")
    assert "documents of the task fda" in refused(str(tmp_path / "mine.parquet"))


@pytest.fixture
def online(monkeypatch):
    asked = []

    def load(name, config=None, split=None, streaming=False):
        asked.append((name, config, split, streaming))
        if name == "some/gone":
            raise FileNotFoundError("Dataset 'some/gone' doesn't exist on the hub")
        column = "content" if name == "some/other" else "text"
        return datasets.Dataset.from_list([{column: f"{i} " * 50} for i in range(100)]).to_iterable_dataset()

    class Answer:
        @staticmethod
        def json():
            return {"sha": "abc", "cardData": {"license": "odc-by"}}

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "reachable", lambda: (True, "here"))
    monkeypatch.setattr(hub, "ask", lambda url: Answer)
    return asked


def test_a_hub_data_set_is_streamed_once(online):
    corpus = open_source("some/text:part", 1000)
    texts = [document.text for document in corpus.documents()]
    # "0 " and so on, of 100 characters each up to 9.
    assert texts == [f"{i} " * 50 for i in range(10)]
    assert (corpus.about["revision"], corpus.about["licence"], corpus.about["documents"]) == ("abc", "odc-by", 10)
    assert open_source("some/text:part", 1000).digest == corpus.digest
    assert online == [("some/text", "part", "train", True)]
    assert open_source("some/text", 500).digest != corpus.digest and len(online) == 2
    assert "doesn't exist on the hub" in refused("some/gone")
    assert "no text under 'text', only content" in refused("some/other")


def test_a_silent_hub_is_given_up_within_5_seconds(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "PATIENCE", 0.5)
        monkeypatch.setattr(hub, "reachable", lambda real=hub.reachable: real(0.5))
        begun = time.monotonic()
        assert "the hub, which cannot be reached (no answer within 0.5 s): give a folder of text" in refused("some/text")
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "`source` is missing"),
        ({"source": []}, "`source`"),
        ({"source": " "}, "`source` holds an empty name"),
        ({"source": "debian", "lenght": 5}, "unknown key `lenght`; did you mean 'length'?"),
        ({"source": "debian", "length": 0}, "`length` is 0"),
        ({"source": "debian", "length": True}, "`length` is True: wanted is an integer"),
        ({"source": "debian", "packing": "rows"}, "`packing` is 'rows'"),
        ({"source": "debian", "recall_share": 1.5}, "`recall_share` is 1.5"),
        ({"source": "debian", "recall_share": "half"}, "`recall_share` is 'half': wanted is a number"),
        ({"source": "debian", "heldout_share": 0}, "`heldout_share` is 0"),
        ({"source": {"a": 1}}, "`source` is {'a': 1}"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_a_wrong_spec_is_one_line(content, told):
    with pytest.raises(UserError) as problem:
        make_text_spec(content, where="here.yaml")
    assert str(problem.value).startswith("here.yaml: ") and told in str(problem.value) and "\n" not in str(problem.value)


def test_a_spec_takes_one_source_or_several():
    assert TextSpec(source="a,b.txt").source == ["a,b.txt"]
    assert TextSpec(source=["a", "b"]).source == ["a", "b"]
    assert make_text_spec({"source": "debian"}, where="-") == TextSpec(source=["debian"], length=2048, packing="blocks")


@pytest.mark.parametrize("broken", [lambda whole: bytes(len(whole)), lambda whole: whole[:200] + bytes(200) + whole[400:]])
def test_a_kept_corpus_that_was_damaged_is_one_line(broken):
    documents = [Document(f"{i} " + "words " * 400, "made", f"{i}.txt") for i in range(50)]
    corpus = stored.stored_corpus("made", "made-1", lambda scratch: (documents, {"licence": "none"}), 10**9)
    assert [d.text for d in corpus.documents()] == [d.text for d in documents]
    file = stored.text_folder() / "made-1" / stored.DOCUMENTS
    file.write_bytes(broken(file.read_bytes()))
    with pytest.raises(UserError, match=r"kept of made cannot be read .*: remove .*made-1, and it is fetched anew") as told:
        list(corpus.documents())
    assert "\n" not in str(told.value)
