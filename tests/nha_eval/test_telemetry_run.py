"""A tiny evaluation with --telemetry as a user gives it, held against plain passes of the same model over the same prompts."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.presets import load
from models.telemetry import observed_shares
from nha_eval.observing import PROMPTS, sampled_prompts
from tasks import synthetic

ROOT = Path(__file__).parents[2]
LENGTH, CONTEXTS, WINDOW = 256, 2, 200


def call(*arguments):
    return subprocess.run([sys.executable, "run_eval.py", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    asked = ["--task", "recall_needle", "--length", LENGTH, "--contexts", CONTEXTS, "--limit", 8, "--window", WINDOW]
    done = call("eval", "--model", "nha-tiny", *asked, "--no-costs", "--device", "cpu", "--telemetry", "--out", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def loaded():
    return load("nha-tiny", device="cpu", dtype="float32")


def test_the_table_holds_what_plain_passes_give(run, loaded):
    loaded.model.set_window(WINDOW)
    # Eight documents are six questions on the first text and two on the second: the first question on each is read.
    docs = synthetic.documents("needle", [LENGTH], contexts=CONTEXTS, questions=6, seed=0)
    prompts = [docs[i]["context"] + docs[i]["question"] for i in (0, 6)]
    with torch.no_grad(), observed_shares(loaded.model) as shares:
        lengths = [
            loaded.model(torch.tensor([loaded.tokenizer(p, add_special_tokens=False)["input_ids"]])).logits.shape[1]
            for p in prompts
        ]
    with (run / "telemetry.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = shares.table()
    assert [row["layer"] for row in wanted] == [0, 1]
    by_head = [(row["layer"], row["head"], row["share"], row["n"]) for row in rows if row["head"]]
    assert [(int(layer), int(head)) for layer, head, _, _ in by_head] == [
        (layer, head) for layer in (0, 1) for head in range(4)
    ]
    assert [float(s) for _, _, s, _ in by_head] == pytest.approx([s for row in wanted for s in row["heads"]], rel=1e-4)
    assert {int(n) for *_, n in by_head} == {sum(lengths) - 2 * WINDOW}
    by_position = [row for row in rows if row["position_first"]]
    assert [(int(row["position_first"]), int(row["position_last"]), int(row["n"])) for row in by_position] == [
        (first, last, n) for row in wanted for first, last, _, n in row["positions"]
    ]
    shown = {(row["model"], row["window"], row["task"], row["length"], row["status"]) for row in rows}
    assert shown == {("nha-tiny", str(WINDOW), "recall_needle", str(LENGTH), "ok")}


def test_each_sample_tells_where_its_answer_stood(run, loaded):
    (path,) = (run / "samples").glob("*.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    docs = synthetic.documents("needle", [LENGTH], contexts=CONTEXTS, questions=6, seed=0)
    assert len(records) == 8
    for record, doc in zip(records, docs, strict=False):
        # The tiny models' tokens are bytes.
        prompt, place = doc["context"] + doc["question"], (doc["context"] + doc["question"]).index(f" {doc['answers'][0]}.") + 1
        assert len(loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]) == len(prompt)
        assert record["distance"] == len(prompt) - place - 1
        assert record["depth"] == pytest.approx(doc["depth"])


def test_the_report_shows_it(run):
    for name in ("report.md", "report.html"):
        text = (run / name).read_text(encoding="utf-8")
        assert "Inside the window" in text and "Slots' share by layer" in text.replace("&#39;", "'")
        assert "inside the window and beyond" in text and "by the answer" in text
    assert (run / "plots" / "slot-share.png").stat().st_size > 1000


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    spec = tmp_path / "mine.yaml"
    spec.write_text("models: [nha-tiny]\nsuites: [recall-local]\ntelemetry: sometimes\n")
    done = call("eval", spec, "--out", tmp_path / "run")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "`telemetry` is 'sometimes': wanted is true or false" in " ".join(done.stderr.split())


def test_no_more_than_a_few_prompts_are_read():
    class Task:
        def build_all_requests(self, *, limit, rank, world_size):
            self.instances = [
                type("Instance", (), {"doc": {"context_id": i // 3}, "doc_id": i, "args": (f"prompt {i}",)})
                for i in range(limit)
            ]

    assert sampled_prompts({"a": Task()}, None) == [f"prompt {3 * i}" for i in range(PROMPTS)]
    assert sampled_prompts({"a": Task(), "b": Task()}, 4) == ["prompt 0", "prompt 3"] * 2
