"""`compare` from end to end: two runs of tiny presets by the real worker, on small tasks of the tests' own, then the verb."""

import csv
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from nha_eval import cli
from nha_eval.evaluate import prepare
from nha_eval.executors import LocalExecutor
from nha_eval.paired import EXACT_BELOW, compare_pairs
from nha_eval.spec import Spec

# Of documents that stand alone, and of six questions on each of eight texts.
DATA = """
from datasets import Dataset

WORDS = "river stone seven green letter garden window sleeps carries under between yellow".split()

def alone(**settings):
    return made(contexts=None, **settings)

def shared(**settings):
    return made(contexts=8, **settings)

def made(contexts, seed=0, **settings):
    import random

    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=30)) for _ in range(contexts or 48)]
    docs = []
    for number in range(48):
        text = number % (contexts or 48)
        about = {"text": texts[text] + " " + " ".join(rng.choices(WORDS, k=3)), "options": WORDS[:3], "label": number % 3}
        docs.append({**about, **({"context_id": f"text-{text}"} if contexts else {})})
    return {"test": Dataset.from_list(docs)}
"""
TASK = """
task: tiny_{name}
custom_dataset: !function data.{name}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0, protocol: tiny}}
"""
NAMES = ("alone", "shared")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with nha-tiny and swa-tiny at two windows, and one with nha-tiny on other prompts."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "data.py").write_text(DATA)
    for name in NAMES:
        (folder / f"tiny_{name}.yaml").write_text(TASK.format(name=name))
    common = {
        "has_lengths": False,
        "default_lengths": (),
        "least_length": 1,
        "protocol": "tiny",
        "version": "1.0",
        "needs": (),
        "sources": (),
        "cut": None,
        "takes_contexts": False,
    }
    suites = {"tiny": [SimpleNamespace(name=f"tiny_{name}", suite="tiny", **common) for name in NAMES]}
    own_tasks = f"building.TASKS_PATH = Path({str(folder)!r})"
    code = f"from pathlib import Path; from nha_eval import building, worker; {own_tasks}; worker.main()"
    for name, models, seed in (("one", ["nha-tiny", "swa-tiny"], 0), ("two", ["nha-tiny"], 1)):
        content = {"models": models, "windows": [4, 16], "suites": ["tiny"], "costs": False, "device": "cpu", "threads": 1}
        spec = Spec.model_validate({**content, "seed": seed, "out": str(folder / name)})
        run = prepare(spec, suites=suites, executor=LocalExecutor([sys.executable, "-c", code]), draw=lambda path: None)
        assert run.go() == 0
    return folder


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def answers(run, model, window, task):
    """Right or wrong by document, as the run's own files hold them."""
    (path,) = (run / "samples").glob(f"{model}--{window}--{task}--*.jsonl")
    samples = map(json.loads, path.read_text().splitlines())
    return np.array([sample["metrics"]["acc"] for sample in samples])


@pytest.mark.slow
def test_the_table_is_that_of_the_runs_own_answers(runs, capsys):
    one = runs / "one"
    assert cli.run(["compare", str(one), "--a", "nha-tiny:4", "--b", "swa-tiny:4"]) == 0
    shown = capsys.readouterr().out
    rows = {row["task"]: row for row in table(one / "comparisons.csv")}
    assert set(rows) == {"tiny_alone", "tiny_shared"}
    for task, clusters in (("tiny_alone", np.arange(48)), ("tiny_shared", np.arange(48) % 8)):
        a, b = (answers(one, model, 4, task) for model in ("nha-tiny", "swa-tiny"))
        # Random weights, and yet two models that answer some otherwise: otherwise nothing would be tested here.
        assert (a != b).any()
        row, expected = rows[task], compare_pairs(a, b, clusters)
        assert float(row["value_a"]) == a.mean() and float(row["value_b"]) == b.mean()
        assert f"{a.mean():.3f}" in shown and f"{a.mean() - b.mean():+.3f}" in shown
        assert float(row["p"]) == expected.p and (int(row["n"]), int(row["clusters"])) == (48, len(set(clusters)))
        assert (float(row["ci_low"]), float(row["ci_high"])) == (expected.low, expected.high)
        if task == "tiny_alone":
            alone, other = int((a > b).sum()), int((a < b).sum())
            assert alone + other < EXACT_BELOW
            assert float(row["p"]) == pytest.approx(mcnemar([[0, alone], [other, 0]], exact=True).pvalue)
        else:
            assert row["test"] == "bootstrap by context"


def test_every_score_of_the_run_has_its_interval(runs):
    rows = table(runs / "one/scores.csv")
    assert len(rows) == 16 and {row["metric"] for row in rows} == {"acc", "majority"}
    for row in rows:
        assert 0 <= float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"]) <= 1
        if row["task"] == "tiny_alone":
            right = round(float(row["value"]) * 48)
            wilson = proportion_confint(right, 48, method="wilson")
            assert (float(row["ci_low"]), float(row["ci_high"])) == pytest.approx(wilson, abs=1e-12)


def test_a_model_with_its_windows_and_a_baseline(runs, capsys):
    one = runs / "one"
    assert cli.run(["compare", str(one), "--a", "nha-tiny", "--b", "swa-tiny"]) == 0
    pairs = {(row["window_a"], row["window_b"]) for row in table(one / "comparisons.csv")}
    assert pairs == {("4", "4"), ("16", "16")}
    assert cli.run(["compare", str(one), "--baseline", "swa-tiny:16", "--out", str(runs / "table.csv")]) == 0
    assert len(table(runs / "table.csv")) == 6
    capsys.readouterr()
    # No full attention was run, so there is nothing to compare with by itself.
    assert cli.run(["compare", str(one)]) == 2
    assert "has no full attention to compare with: give --a and --b, or --baseline" in capsys.readouterr().err


def test_runs_of_other_prompts_are_refused(runs, capsys):
    assert cli.run(["compare", str(runs / "one"), str(runs / "two"), "--out", str(runs)]) == 2
    out, err = capsys.readouterr()
    assert not out and not (runs / "comparisons.csv").exists() and len(err.strip().splitlines()) == 1
    assert "other prompts in 48 of 48 shared documents, document 0 first (seed 0 against 1)" in err
