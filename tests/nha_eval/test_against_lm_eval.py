"""Scores on the real model equal what `lm_eval --model hf` gives for the same checkpoint, suite by suite, to the last digit.

Both are processes of their own: `eval` with its tables, and plain lm-eval at batch size 1. The hub's recall sets are documents
of this project's own writing, in the hub's schema.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import hub_docs
import pytest

from models.assets import smollm2_folder
from nha_eval.evaluate import known_suites
from tasks import TASKS_PATH

pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SUITES = ("recall-local", "commonsense-local", "recall", "recall-lmeval")
LENGTH, LIMIT = 512, 2
# Where lm-eval's own tasks look for them: `datasets` takes a folder of that name for the hub's.
HUB_IDS = {"fda": "hazyresearch/based-fda", "swde": "hazyresearch/based-swde-v2", "squad": "hazyresearch/based-squad"}


def call(*command, cwd=ROOT):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Name -> file of every data set of the suites on the hub's data."""
    return hub_docs.write_all(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The folder of one `eval` of all the suites."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    given = [word for name, path in data.items() for word in ("--data", f"{name}={path}")]
    suites = [word for suite in SUITES for word in ("--suite", suite)]
    size = ["--length", LENGTH, "--contexts", 1, "--limit", LIMIT, "--batch", 8, "--no-costs"]
    call("run_eval.py", "eval", "--model", "smollm2-135m", *suites, *given, *size, "--device", "cpu", "--out", folder)
    return folder


def harness_scores(run, suite):
    """Task -> metric -> value."""
    found = {}
    with (run / "scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["suite"] == suite:
                assert row["status"] == "ok", row
                found.setdefault(row["task"], {})[row["metric"]] = float(row["value"])
    return found


def harness_samples(run, task):
    """Each document's record, by its number."""
    for file in (run / "cells").glob("*.json"):
        if json.loads(file.read_text())["cell"].get("task") == task:
            lines = (run / "samples" / f"{file.stem}.jsonl").read_text(encoding="utf-8").splitlines()
            return {record["doc_id"]: record for record in map(json.loads, lines)}
    raise AssertionError(f"no cell of {task}")


@pytest.mark.parametrize("suite", SUITES)
def test_scores_equal_plain_lm_eval(run, data, suite, tmp_path):
    for name, hub_id in HUB_IDS.items():
        hub_docs.write(tmp_path / hub_id / "validation.jsonl", hub_docs.DOCS[name])
    metadata = {"seed": 0, "lengths": [LENGTH], "contexts": 1, "data": data}
    model = ["--model", "hf", "--model_args", f"pretrained={smollm2_folder()},dtype=float32", "--device", "cpu"]
    what = ["--tasks", suite, "--include_path", TASKS_PATH, "--metadata", json.dumps(metadata), "--limit", LIMIT]
    call("-m", "lm_eval", *model, *what, "--batch_size", 1, "--output_path", "out", "--log_samples", cwd=tmp_path)
    theirs = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]
    ours = harness_scores(run, suite)
    assert set(ours) == {task.name for task in known_suites()[suite]} == set(theirs) - {suite}
    for task, scores in ours.items():
        wanted = {key.removesuffix(",none"): value for key, value in theirs[task].items() if key.endswith(",none")}
        wanted = {metric: value for metric, value in wanted.items() if not metric.endswith("_stderr")}
        assert wanted, task
        for metric, value in wanted.items():
            assert scores[metric] == pytest.approx(value, abs=1e-12), (task, metric)
        records = harness_samples(run, task)
        (file,) = tmp_path.rglob(f"samples_{task}_[0-9][0-9][0-9][0-9]-*.jsonl")
        samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert {sample["doc_id"] for sample in samples} == set(records)
        for sample in samples:
            record = records[sample["doc_id"]]
            for metric in wanted:
                assert record["metrics"][metric] == pytest.approx(sample[metric], abs=1e-12), (task, sample["doc_id"])
            if isinstance(record["prediction"], str):
                assert record["prediction"] == sample["filtered_resps"][0], (task, sample["doc_id"])
