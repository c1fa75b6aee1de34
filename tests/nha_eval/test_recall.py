"""The recall suites through the harness: what is asked, what scores, what was cut, and data in the hub's place."""

import socket
import time
from types import SimpleNamespace

import fakes
import hub_docs
import numpy as np
import pandas as pd
import pytest
from lm_eval.api.model import LM
from tiny_lm import make_model, make_tokenizer, plain

from models.assets import AssetUnavailable
from nha_eval import building, hub
from nha_eval.errors import DATA_MISSING, UserError
from nha_eval.evaluate import known_suites, prepare
from nha_eval.fetching import fetch_all
from nha_eval.given_data import look_over
from nha_eval.lm import HarnessLM
from nha_eval.plan import ModelInfo, expand
from nha_eval.plots import make_frames
from nha_eval.report.content import task_tables
from nha_eval.report.tables import MISSING
from nha_eval.scoring import score_task
from nha_eval.spec import Spec, make_spec
from tasks.suites import TaskInfo, suite_tasks

SUITES = known_suites()
RECALL = [task for suite in ("recall", "recall-twice", "recall-lmeval") for task in suite_tasks(suite)]
SHORT, LONG = 62, 2000


class Knowing(LM):
    """Answers each prompt as it was told to, and remembers what it was asked."""

    def __init__(self, answers=None, default=" nothing"):
        super().__init__()
        self.tokenizer = hub_docs.word_tokenizer()
        self.knows, self.default, self.asked = answers or {}, default, []
        self.kept = {}

    def generate_until(self, requests, disable_tqdm=False):
        self.asked += [request.args for request in requests]
        return [self.knows.get(request.args[0], self.default) for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.fixture
def data(tmp_path):
    return hub_docs.write_all(tmp_path / "hub")


def rows_of(score):
    return {row.metric: (row.value, row.n) for row in score.rows}


@pytest.mark.parametrize("info", RECALL, ids=lambda info: info.name)
def test_a_gold_answer_scores_100_and_nothing_0(data, info):
    length = LONG if info.has_lengths else None
    shy = Knowing()
    score = score_task(shy, info.name, length=length, data=data)
    assert rows_of(score)["contains"][0] == 0.0
    gold = {}
    for (prompt, _), sample in zip(shy.asked, score.samples, strict=True):
        answer = sample["gold"] if isinstance(sample["gold"], str) else sample["gold"][0]
        gold[prompt] = f" {answer}, it says"
    score = score_task(Knowing(gold), info.name, length=length, data=data)
    assert rows_of(score)["contains"] == (1.0, len(gold))
    assert {(row.protocol, row.task_version) for row in score.rows} == {(info.protocol, info.version)}


@pytest.mark.parametrize(
    ("task", "prompts"),
    [
        ("fda", [doc["text"] for doc in hub_docs.FDA]),
        ("swde", ["The Quiet Harbour was made in 1983 by Ada Lind. \n\nSummary of information above...\ngenre: drama\nyear:"]),
        ("squad_completion", ["The mill was built by Harald Senn. It still stands. The mill was built by"]),
        ("recall_pla_swde", ["The Quiet Harbour was made in 1983 by Ada Lind. Year:"]),
        ("recall_pla_fda", ["g h i j k l Device Name: Lumo Pump m n. Device name:", "i j k l made by Orla m n o p q. Maker:"]),
    ],
)
def test_what_is_asked(data, task, prompts):
    """lm-eval's own ask the whole text; `pla` cuts it to 12 words around key or value."""
    lm = Knowing()
    score_task(lm, task, length=SHORT if "pla" in task else None, data=data)
    assert [prompt for prompt, _ in lm.asked] == prompts
    # lm-eval 0.4.13 gives squad_completion its defaults for generation, not the 48 tokens of the other two.
    limits = (["\n\n"], 256) if task == "squad_completion" else (["\n"], 48)
    assert all((settings["until"], settings["max_gen_toks"]) == limits for _, settings in lm.asked)


def test_what_was_cut_and_what_survived(tmp_path):
    """Of four documents one stays whole, three are cut; one holds no answer at all, and of the others one loses it."""
    long = "one two three four five six seven eight nine ten"
    docs = [{"context": c, "question": "which?", "answers": ["Tarn"]} for c in ("Tarn", f"Tarn {long}", f"{long} Tarn", long)]
    path = hub_docs.write(tmp_path / "drop.jsonl", docs)
    score = score_task(Knowing(), "recall_pla_drop", length=58, data={"drop": path})
    assert rows_of(score) == {"contains": (0.0, 4), "truncated": (0.75, 4), "answer_survives": (2 / 3, 3)}
    assert [sample["survives"] for sample in score.samples] == [True, True, False, False]
    changed = score_task(Knowing(), "recall_pla_drop", length=58, data={"drop": path}, truncation="left")
    assert rows_of(changed)["answer_survives"] == (2 / 3, 3)
    assert {row.protocol for row in changed.rows} == {"pla, cut: left"}
    skipped = score_task(Knowing(), "recall_pla_drop", length=58, data={"drop": path}, truncation="skip")
    assert rows_of(skipped) == {"contains": (0.0, 1), "truncated": (0.0, 1), "answer_survives": (1.0, 1)}
    with pytest.raises(ValueError, match="11 tokens does not fit in 8"):
        score_task(Knowing(), "recall_pla_drop", length=58, data={"drop": path}, truncation="error")


def test_what_the_model_cannot_hold_counts_as_cut(tmp_path):
    """lm-eval's own fda is not cut by its protocol: the model keeps the last tokens, here too few for a value far before."""
    far = {**hub_docs.FDA[1], "text": "Orla " + "a river and a stone " * 20 + "\nmaker:"}
    near = {**hub_docs.FDA[1], "text": "a river and a stone " * 20 + "Orla \nmaker:"}
    path = hub_docs.write(tmp_path / "fda.jsonl", [far, near, {**near, "text": "Orla maker:"}])
    model = SimpleNamespace(model=make_model(), tokenizer=make_tokenizer(), max_length=128)
    score = score_task(HarnessLM(model), "fda", data={"fda": path})
    assert rows_of(score)["truncated"] == (pytest.approx(2 / 3), 3)
    assert rows_of(score)["answer_survives"] == (pytest.approx(2 / 3), 3)
    assert [sample["survives"] for sample in score.samples] == [False, True, True]
    assert {sample["context_id"] for sample in score.samples} == {"K1.txt"}


def test_lm_evals_choices_on_local_data(tmp_path):
    docs = [
        {"question": f"What is {i}?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"} for i in range(3)
    ]
    path = hub_docs.write(tmp_path / "arc.jsonl", docs)
    task = building.build("arc_easy", {}, data={"arc_easy": path})["tasks"]["arc_easy"]
    assert [task.doc_to_text(doc) for doc in task.test_docs()] == [f"Question: What is {i}?\nAnswer:" for i in range(3)]
    assert task.doc_to_target(task.test_docs()[0]) == 1


GROUPED = """
task: tiny_{name}
dataset_path: hub/tiny
dataset_name: {name}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: ["A", "B"]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def test_a_group_is_scored_as_plain_lm_eval_scores_it(tmp_path, monkeypatch):
    """As mmlu: tasks of unlike sizes, a mean weighted by them, an example from another split before each question."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    (tmp_path / "tiny").mkdir()
    for name, count in (("one", 5), ("two", 2)):
        (tmp_path / "tiny" / f"{name}.yaml").write_text(GROUPED.format(name=name))
        docs = [{"question": f"{name} {i} the river and a stone", "answer": i % 2} for i in range(count + 1)]
        hub_docs.write(tmp_path / "data" / name / "test.jsonl", docs[1:])
        hub_docs.write(tmp_path / "data" / name / "dev.jsonl", docs[:1])
    (tmp_path / "tiny" / "all.yaml").write_text(
        "group: tiny\ntask: [tiny_one, tiny_two]\nmetadata: {version: 3}\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    info = TaskInfo("tiny", "s", False, (), "lmeval", "3", (), sources=(("tiny", "hub/tiny"),), folder="tiny", shots=1)
    monkeypatch.setattr(building, "lm_eval_folder", lambda: tmp_path)
    monkeypatch.setattr(building, "own_task", lambda name: info)
    model = SimpleNamespace(model=make_model(), tokenizer=make_tokenizer(), max_length=256)
    score = score_task(HarnessLM(model), "tiny", data={"tiny": str(tmp_path / "data")})
    manager = TaskManager(include_path=str(tmp_path / "tiny"), include_defaults=False)
    with building._in_place_of_hub("hub/tiny", str(tmp_path / "data")):
        plainly = lm_eval.simple_evaluate(model=plain(model), tasks=["tiny"], task_manager=manager, num_fewshot=1)
    (row,) = score.rows
    assert (row.value, row.stderr) == (plainly["results"]["tiny"]["acc,none"], plainly["results"]["tiny"]["acc_stderr,none"])
    assert (row.metric, row.n, row.task_version, row.protocol) == ("acc", 7, "3", "lmeval")
    hashes = [sample["prompt_hash"] for name in ("tiny_one", "tiny_two") for sample in plainly["samples"][name]]
    assert [sample["prompt_hash"] for sample in score.samples] == hashes
    assert [(sample["doc_id"], sample["task"]) for sample in score.samples][4:6] == [(4, "tiny_one"), (5, "tiny_two")]
    assert np.mean([sample["correct"] for sample in score.samples]) == pytest.approx(row.value)


def test_examples_are_not_taken_from_the_questions(tmp_path):
    path = hub_docs.write(tmp_path / "mmlu.jsonl", [{"question": "?", "choices": ["a"] * 4, "answer": 0}])
    with pytest.raises(UserError, match="mmlu shows 5 examples of another split: give a folder"):
        cells(["mmlu"], {"mmlu": path})
    assert [cell.task_version for cell in cells(["mmlu"])] == ["2"]


def test_a_clone_of_the_hubs_repository_with_configurations(tmp_path):
    """As arc's: files by configuration, named in the README."""
    doc = {"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}
    lines = ["---", "configs:"]
    for name in ("ARC-Easy", "ARC-Challenge"):
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in ("train", "validation", "test"):
            hub_docs.write(tmp_path / "data" / f"{name}-{split}.jsonl", [{"question": f"{name} {split}", **doc}])
            lines += [f"  - split: {split}", f"    path: data/{name}-{split}.jsonl"]
    (tmp_path / "README.md").write_text("\n".join([*lines, "---", ""]))
    for name, config in (("arc_easy", "ARC-Easy"), ("arc_challenge", "ARC-Challenge")):
        task = building.build(name, {}, data={"allenai/ai2_arc": str(tmp_path)})["tasks"][name]
        assert [task.doc_to_text(doc) for doc in task.test_docs()] == [f"Question: {config} test\nAnswer:"]


def cells(tasks, data=None, **content):
    spec = Spec.model_validate({"models": ["a"], "tasks": tasks, "costs": False, **content})
    infos = [task for members in SUITES.values() for task in members]
    given = look_over(data or {}, [info for info in infos if info.name in tasks], infos)
    return expand(spec, [ModelInfo("a", "a", "w", "full", 4096)], SUITES, given)


def test_cells_are_told_apart_by_what_is_read_and_how_it_is_cut(tmp_path, data):
    plain, changed, fixed = (
        cells(["recall_pla_fda"], lengths=[512], **settings)[0]
        for settings in ({}, {"truncation": "head"}, {"tokenizer": "some/llama"})
    )
    assert len({plain.id, changed.id, fixed.id}) == 3
    assert [cell.protocol for cell in (plain, changed, fixed)] == ["pla", "pla, cut: head", "pla, tokens: llama"]
    local = cells(["recall_pla_fda"], {"fda": data["fda"]}, lengths=[512])[0]
    moved = hub_docs.write(tmp_path / "elsewhere" / "fda.jsonl", hub_docs.FDA)
    assert cells(["recall_pla_fda"], {"fda": moved}, lengths=[512])[0].id == local.id != plain.id
    other = hub_docs.write(tmp_path / "other" / "fda.jsonl", hub_docs.FDA[:2])
    assert cells(["recall_pla_fda"], {"fda": other}, lengths=[512])[0].id != local.id
    assert [length for length, _ in [(cell.length, cell) for cell in cells(["recall_pla_nq"])]] == [512, 1024, 2000, 2048]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"fdaa": "x"}}, r"--data fdaa=x: no task reads data named 'fdaa'; did you mean 'fda'"),
        ({"data": {"fda": "nowhere"}}, "--data fda=nowhere: no such data"),
        ({"data": {"fda": "a" * 5000}}, "--data fda 'a+': File name too long"),
        ({"data": {"fda": "{drop}"}}, "fda: the documents lack key, value, text"),
        ({"tasks": ["recall_needle"], "truncation": "head"}, "--truncation: none of the tasks asked for cuts its contexts"),
        ({"tasks": ["recall_pla_fda"], "lengths": [60]}, "length 60 is too short for recall_pla_fda, whose least is 64"),
    ],
    ids=["name", "path", "long", "schema", "truncation", "length"],
)
def test_mistakes_are_one_line(data, settings, message):
    given = {name: path.format(**data) for name, path in settings.pop("data", {}).items()}
    with pytest.raises(UserError, match=message):
        cells(settings.pop("tasks", ["recall_pla_fda"]), given, **settings)


def test_what_a_truncation_does_not_apply_to_is_said(tmp_path, capsys):
    content = {
        "models": ["a"],
        "suites": ["recall", "recall-lmeval"],
        "lengths": [512],
        "costs": False,
        "out": str(tmp_path / "r"),
    }
    prepare(Spec.model_validate({**content, "truncation": "left"}), describe=fakes.describe)
    assert "note: fda, squad_completion, swde cut nothing by a protocol; --truncation is not applied" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no such tokenizer: './nowhere'; give a folder that holds one, or a hub id"):
        prepare(Spec.model_validate({**content, "tokenizer": "./nowhere"}), describe=fakes.describe)
    with pytest.raises(UserError, match=r"--tokenizer 'a+': File name too long"):
        prepare(Spec.model_validate({**content, "tokenizer": "a" * 5000}), describe=fakes.describe)


def test_data_is_named_in_a_spec_and_by_flags():
    spec = make_spec({"model": "a", "data": {"fda": "x"}}, {"data": ["swde=y=z", "/cache/a=b", "org/set=z"]}, where="s")
    assert (spec.data, spec.datasets) == ("/cache/a=b", {"fda": "x", "swde": "y=z", "org/set": "z"})
    assert make_spec({"model": "a", "data": "/cache"}, {}, where="s").data == "/cache"
    assert not {"data", "datasets", "truncation", "tokenizer"} & spec.deciding().keys()
    for wrong, message in ((["a", "b"], "the folder is 'a' already"), (["fda=a", "fda=b"], "fda is 'a' already; give it once")):
        with pytest.raises(UserError, match=message):
            make_spec({"model": "a"}, {"data": wrong}, where="s")
    with pytest.raises(UserError, match=r"`truncation` is 'middle': wanted is 'around-answer', 'left'"):
        make_spec({"model": "a", "truncation": "middle"}, {}, where="s")


def test_a_hub_that_does_not_answer_is_given_up_within_5_seconds(monkeypatch):
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        began = time.monotonic()
        failures = fetch_all(["hub:nobody/has-this", "hub:nor/that,nor/those"])
        assert time.monotonic() - began < hub.PATIENCE + 1
    assert set(failures) == {"hub:nobody/has-this", "hub:nor/that,nor/those"}
    assert all("no answer within 5 s" in reason and "--data NAME=PATH" in reason for reason in failures.values())


def test_the_hub_is_not_asked_where_the_cache_has_the_data(monkeypatch, tmp_path):
    import datasets

    (tmp_path / "org___set" / "default").mkdir(parents=True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(hub, "reachable", lambda: pytest.fail("asked"))
    assert fetch_all(["hub:org/set", "hub:org/other,org/set"]) == {}


def test_a_silent_hub_is_waited_for_once_a_minute(monkeypatch):
    from huggingface_hub import constants

    asked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(building, "_silent_since", [-float("inf")])
    monkeypatch.setattr(hub, "reachable", lambda: (asked.append(1), (False, "silent"))[1])
    for _ in range(2):
        with pytest.raises(AssetUnavailable, match=r"the data of task 'arc_easy' cannot be had: .*OfflineModeIsEnabled"):
            building.build("arc_easy", {})
    assert asked == [1] and not constants.HF_HUB_OFFLINE


def test_a_fixed_tokenizer_out_of_reach_is_unavailable(data):
    with pytest.raises(AssetUnavailable, match="the data of task 'recall_pla_fda' cannot be had"):
        building.build("recall_pla_fda", {"tokenizer": "nobody/has-this", "lengths": [512]}, data=data)


def test_the_report_tells_what_was_cut():
    common = {"model": "a", "window": "full", "suite": "recall", "length": 512, "status": "ok", "n": 4, "stderr": ""}
    rows = [
        {**common, "task": task, "metric": metric, "value": value}
        for task, figures in {
            "fda": {"contains": 0.5, "truncated": 0.75, "answer_survives": 1.0},
            "drop": {"contains": 0.25},
        }.items()
        for metric, value in figures.items()
    ]
    (table,) = task_tables(make_frames(pd.DataFrame(rows)))
    assert table.columns[1:] == ["fda (contains)", "drop (contains)"]
    assert table.rows[1:3] == [
        ["contexts cut, share", "0.750", MISSING],
        ["answers surviving the cut, share", "1.000", MISSING],
    ]


def test_a_run_without_the_hub_goes_on_and_ends_in_3(tmp_path, data, capsys):
    """HF_HUB_OFFLINE is set for every test: two tasks have local data, the others end `unavailable`, none of them late."""
    folder = tmp_path / "tiny"
    make_model(max_position_embeddings=1024).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    spec = Spec.model_validate(
        {
            **{"models": [str(folder)], "suites": ["recall", "commonsense"], "lengths": [512], "costs": False, "device": "cpu"},
            **{"datasets": {"fda": data["fda"], "nq": data["nq_512"]}, "out": str(tmp_path / "run"), "threads": 1},
        }
    )
    run = prepare(spec, draw=lambda path: None)
    assert run.go() == DATA_MISSING
    status = {record["cell"]["task"]: (record["status"], record["reason"]) for record in run.records.values()}
    assert {task for task, (state, _) in status.items() if state == "ok"} == {"recall_pla_fda", "recall_pla_nq"}
    missing = {task: reason for task, (state, reason) in status.items() if state == "unavailable"}
    assert len(missing) == 4 + 7 and all("HF_HUB_OFFLINE is set" in reason for reason in missing.values())
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("data could not be had for recall_pla_drop, recall_pla_squad, ") and "wikitext" in last
    table = (tmp_path / "run" / "scores.csv").read_text()
    assert (
        table.count(",ok,") == 2 * 3
        and ",recall_pla_fda,1.0,pla,contains," in table
        and ",recall_pla_fda,1.0,pla,answer_survives,1.0,,2,512," in table
    )

    # Data given afterwards fills what was missing; what is there already stays.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").glob("*recall_pla_nq*")}
    later = spec.model_copy(update={"datasets": {**spec.datasets, "squad": data["squad"]}, "suites": ["recall", "commonsense"]})
    run = prepare(later, draw=lambda path: None)
    assert run.go() == DATA_MISSING
    ok = {record["cell"]["task"] for record in run.records.values() if record["status"] == "ok"}
    assert ok == {"recall_pla_fda", "recall_pla_nq", "recall_pla_squad"}
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "cells").glob("*recall_pla_nq*")}


def test_the_fakes_know_what_tasks_hold():
    assert vars(fakes.suites()["recall"][0]).keys() <= vars(suite_tasks("recall")[0]).keys()
