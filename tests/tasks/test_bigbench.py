"""Commonsense documents: one right choice exactly, places in turn, few-shot examples apart; and the archive behind."""

import io
import json
import tarfile

import pytest

from tasks import bigbench
from tasks.assets import BIGBENCH, BIGBENCH_TASKS, _stream_tasks, bigbench_examples
from tasks.bigbench import documents, split
from tasks.counting import count_tokens

COMMONSENSE = [task for task in BIGBENCH_TASKS if task != "disfl_qa"]


@pytest.mark.parametrize("source", COMMONSENSE)
def test_gold_is_the_choice_scored_one(small_data, source):
    examples = bigbench.bigbench_examples(source)
    docs = documents(source)
    assert sorted(doc["item"] for doc in docs) == list(range(len(examples)))
    for doc in docs:
        right = [label for label, score in examples[doc["item"]]["target_scores"].items() if score == 1]
        assert doc["answer"] == doc["choices"][doc["gold"]]
        assert doc["answer"].startswith(right[0].strip())
        assert len(doc["choices"]) == len(examples[doc["item"]]["target_scores"])
    assert documents(source) == docs
    assert documents(source, seed=1) != docs


def test_places_go_round_where_labels_differ(small_data):
    golds = [doc["gold"] for doc in documents("social_iqa")]
    assert golds == [i % 3 for i in range(len(golds))]
    assert {tuple(doc["choices"]) for doc in documents("strategyqa")} == {("Yes", "No")}


def test_items_without_exactly_one_right_choice_are_left_out(monkeypatch, caplog):
    scores = [{"a": 1, "b": 0}, {"a": 1, "b": 1}, {"a": 0, "b": 0}, {"a": 0.5, "b": 0.5}]
    monkeypatch.setattr(
        bigbench, "bigbench_examples", lambda task: [{"input": str(i), "target_scores": s} for i, s in enumerate(scores)]
    )
    assert [doc["item"] for doc in documents("social_iqa")] == [0]
    assert "3 of 4 items left out" in caplog.text


def test_a_masked_dialogue_goes_on_to_the_end_of_its_turn(small_data):
    doc = next(doc for doc in documents("timedial") if doc["item"] == 0)
    assert doc["question"].startswith("Number 0. A: Good morning")
    assert doc["question"].endswith("It took")
    assert doc["answer"] == "three hours or so."
    assert len({doc["context_id"] for doc in documents("timedial")}) == 30


def test_shots_keep_to_their_lengths(small_data):
    shots = split("timedial", 5, 0, (60, 90))["fewshot"]
    assert len({shot["context_id"] for shot in shots}) == 5
    assert all(60 <= count_tokens(f"{shot['question']} {shot['answer']}") <= 90 for shot in shots)
    with pytest.raises(ValueError, match="timedial: 5 shots asked, 0 of 60 items fit"):
        split("timedial", 5, 0, (5000, 6000))


def write_archive(path, tasks):
    with tarfile.open(path, "w:gz") as archive:
        for name in ["README.md", *(f"bigbench/benchmark_tasks/{task}/task.json" for task in tasks)]:
            content = json.dumps({"examples": [{"input": name}]}).encode()
            member = tarfile.TarInfo(f"bigbench-1.0.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_only_the_wanted_members_are_taken(tmp_path):
    write_archive(tmp_path / "a.tar.gz", [*BIGBENCH_TASKS, "other"])
    (tmp_path / "out").mkdir()
    _stream_tasks(tmp_path / "a.tar.gz", tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(BIGBENCH_TASKS)


def test_an_archive_without_them_says_which(tmp_path):
    write_archive(tmp_path / "a.tar.gz", BIGBENCH_TASKS[1:])
    with pytest.raises(ValueError, match=BIGBENCH_TASKS[0]):
        _stream_tasks(tmp_path / "a.tar.gz", tmp_path)


def test_unknown_task_is_refused():
    with pytest.raises(ValueError, match="no BIG-bench task named 'nope'"):
        bigbench_examples("nope")


@pytest.mark.assets
def test_the_real_files_are_as_described():
    for source in COMMONSENSE:
        assert len(documents(source)) == len(bigbench_examples(source))
    assert BIGBENCH.name == "bigbench-1.0.0-tasks"
    assert len(bigbench_examples("disfl_qa")) == 8000
