"""score_task: lm-eval's own values, standard errors that mind shared contexts, the best constant answer, and the records."""

import json

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.tasks import TaskManager
from tiny_lm import loaded, make_model, plain, words

from nha_eval import building
from nha_eval.lm import HarnessLM
from nha_eval.scoring import ScoreRow, score_task
from nha_eval.stats import clustered_stderr, score_interval

LIKE = loaded(make_model(max_position_embeddings=512))

DATA = """
import json
from pathlib import Path
from datasets import Dataset

def choices(**settings):
    return read("choices")

def recall(lengths=(1, 2), seed=0, contexts=3, **settings):
    docs = [d for d in read("recall")["test"] if d["length"] in lengths and d["number"] < contexts]
    return {"test": Dataset.from_list([{**d, "question": f"{d['question']} {seed}"} for d in docs])}

def read(name):
    lines = Path(__file__).with_name(name + ".jsonl").read_text().splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}

def odd(doc, results):
    return {"odd": float(len(results[0]) % 2)}

def longest(items):
    return max(items)
"""

CHOICES = """
task: {name}
custom_dataset: !function data.choices
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{context}}}}\\nAnswer:"
doc_to_choice: "{{{{{options}}}}}"
doc_to_target: label
num_fewshot: {shots}
fewshot_split: test
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.5, protocol: tiny}}
"""

RECALL = """
task: tiny_recall
custom_dataset: !function data.recall
output_type: generate_until
test_split: test
doc_to_text: "{{context}}\\n{{question}}"
doc_to_target: "{{answers[0]}}"
process_results: !function data.odd
generation_kwargs: {until: ["\\n", "a"], max_gen_toks: 6}
metric_list:
  - {metric: odd, aggregation: mean, higher_is_better: true}
metadata: {version: 2.0}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of small tasks in the place of this project's: two of choices, one of questions on shared contexts."""
    (tmp_path / "data.py").write_text(DATA)
    for name, options, shots in (("tiny_texts", "own", 2), ("tiny_labels", "same", 0)):
        (tmp_path / f"{name}.yaml").write_text(CHOICES.format(name=name, options=options, shots=shots))
    (tmp_path / "tiny_recall.yaml").write_text(RECALL)
    gold = [0, 1, 1, 2, 1, 0, 1, 1, 2, 1, 0, 0]
    docs = [
        {
            "context": words(20, i),
            "own": [words(2 + j, 50 + 3 * i + j) for j in range(3)],
            "same": ["yes", "no", "perhaps"] if i % 2 else ["perhaps", "yes", "no"],
            "label": g,
        }
        for i, g in enumerate(gold)
    ]
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, docs)))
    docs = [
        {
            "context": words(60, 100 + number),
            "context_id": f"text-{number}",
            "question": words(3 + q, 200 + q),
            "answers": [words(1, 7 * number + q), "x"],
            "length": length,
            "number": number,
            "depth": q / 4,
        }
        for length in (1, 2)
        for number in range(4)
        for q in range(2 + number)
    ]
    (tmp_path / "recall.jsonl").write_text("\n".join(map(json.dumps, docs)))
    monkeypatch.setattr(building, "TASKS_PATH", tmp_path)
    return tmp_path


def by_lm_eval(folder, task: str, **settings) -> dict:
    """What plain lm-eval gives for the task with its own model."""
    manager = TaskManager(include_path=str(folder), include_defaults=False, metadata=settings.pop("metadata", {}))
    return lm_eval.simple_evaluate(model=plain(LIKE), tasks=[task], task_manager=manager, bootstrap_iters=100, **settings)[
        "results"
    ][task]


@pytest.mark.parametrize("task", ["tiny_texts", "tiny_labels"])
@pytest.mark.parametrize("limit", [None, 7])
def test_choice_scores_are_lm_evals_own(folder, task, limit):
    score = score_task(HarnessLM(LIKE), task, limit=limit)
    expected = by_lm_eval(folder, task, limit=limit)
    rows = {row.metric: row for row in score.rows}
    assert set(rows) == {"acc", "acc_norm", "majority"}
    for metric in ("acc", "acc_norm"):
        assert rows[metric].value == expected[f"{metric},none"]
        assert rows[metric].stderr == expected[f"{metric}_stderr,none"]
        assert rows[metric].n == (limit or 12)
    assert isinstance(rows["acc"], ScoreRow)
    assert (rows["acc"].task, rows["acc"].task_version, rows["acc"].protocol, rows["acc"].length) == (task, "1.5", "tiny", None)
    assert np.mean([sample["metrics"]["acc_norm"] for sample in score.samples]) == pytest.approx(rows["acc_norm"].value)


def test_the_same_lm_is_asked_anew(folder):
    """What it answered before a change of the model is not its answer after."""
    lm = HarnessLM(loaded(make_model(max_position_embeddings=512)))
    before, again = (score_task(lm, "tiny_texts").samples for _ in range(2))
    assert again == before
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(-1.0)
    assert score_task(lm, "tiny_texts").samples != before


def test_majority_by_hand(folder):
    """Own texts: position 1 is right 6 times of 12. Same texts, turned for even items: "no" is right most often, 5 times."""
    texts = {row.metric: row for row in score_task(HarnessLM(LIKE), "tiny_texts").rows}
    labels = {row.metric: row for row in score_task(HarnessLM(LIKE), "tiny_labels").rows}
    assert (texts["majority"].value, texts["majority"].n) == (0.5, 12)
    assert texts["majority"].stderr == pytest.approx(np.std([1.0] * 6 + [0.0] * 6, ddof=1) / np.sqrt(12))
    assert labels["majority"].value == pytest.approx(5 / 12)


def test_shared_contexts_give_a_clustered_stderr(folder):
    score = score_task(HarnessLM(LIKE), "tiny_recall", contexts=4)
    (row,) = score.rows
    expected = by_lm_eval(folder, "tiny_recall", metadata={"contexts": 4, "seed": 0})
    assert row.value == expected["odd,none"] and 0 < row.value < 1
    values = [sample["metrics"]["odd"] for sample in score.samples]
    contexts = [sample["context_id"] for sample in score.samples]
    assert row.stderr == clustered_stderr(values, contexts) != expected["odd_stderr,none"]
    assert row.n == len(values) == 28


def test_lengths_contexts_and_seed_reach_the_task(folder):
    score = score_task(HarnessLM(LIKE), "tiny_recall", length=2, contexts=2, seed=5)
    assert {row.length for row in score.rows} == {2}
    assert {sample["length"] for sample in score.samples} == {2}
    assert {sample["context_id"] for sample in score.samples} == {"text-0", "text-1"}
    expected = by_lm_eval(folder, "tiny_recall", metadata={"lengths": [2], "contexts": 2, "seed": 5})
    assert score.rows[0].value == expected["odd,none"]
    assert (
        score_task(HarnessLM(LIKE), "tiny_recall", length=2, contexts=2).samples[0]["prompt_hash"]
        != (score.samples[0]["prompt_hash"])
    )


def test_samples_tell_what_was_asked_and_answered(folder):
    recall = score_task(HarnessLM(LIKE), "tiny_recall", length=1).samples
    assert [sample["doc_id"] for sample in recall] == list(range(len(recall)))
    assert set(recall[0]) == {
        *("doc_id", "context_id", "prompt_hash", "asked", "choices", "gold", "prediction", "correct", "metrics"),
        *("length", "depth", "distance"),
    }
    assert recall[0]["asked"] and recall[0]["choices"] is None
    assert recall[1]["depth"] == 0.25 and recall[0]["gold"][1] == "x" and isinstance(recall[0]["prediction"], str)
    choices = score_task(HarnessLM(LIKE), "tiny_labels").samples
    assert [sample["gold"] for sample in choices] == [0, 1, 1, 2, 1, 0, 1, 1, 2, 1, 0, 0]
    assert all((sample["prediction"] == sample["gold"]) == bool(sample["correct"]) for sample in choices)
    assert all(len(sample["choices"]) > sample["gold"] for sample in choices)
    assert json.loads(json.dumps([*recall, *choices])) == [*recall, *choices]


def test_scores_are_the_same_at_any_batch_size(folder):
    for task in ("tiny_texts", "tiny_recall"):
        one, eight = (score_task(HarnessLM(LIKE, batch_size=size), task) for size in (1, 8))
        assert one.samples == eight.samples
        for a, b in zip(one.rows, eight.rows, strict=True):
            assert a.value == pytest.approx(b.value, abs=1e-6) and a.stderr == pytest.approx(b.stderr, abs=1e-6)


def test_truncated_requests_are_counted(folder):
    assert score_task(HarnessLM(LIKE), "tiny_recall").truncated == 0
    lm = HarnessLM(LIKE, max_length=100)
    assert score_task(lm, "tiny_recall").truncated == score_task(lm, "tiny_recall").truncated == 18


def test_a_metric_that_is_no_mean_has_no_clustered_stderr(folder):
    path = folder / "tiny_recall.yaml"
    path.write_text(path.read_text().replace("aggregation: mean", "aggregation: !function data.longest"))
    (row,) = score_task(HarnessLM(LIKE), "tiny_recall").rows
    assert row.value == 1.0 and row.stderr is row.ci_low is row.ci_high is None


def test_unknown_tasks_are_named(folder, monkeypatch):
    monkeypatch.setattr(building, "TaskManager", lambda **kw: TaskManager(**{**kw, "include_defaults": False}))
    with pytest.raises(ValueError, match="no such task: 'tiny_recal'; did you mean 'tiny_recall'"):
        score_task(HarnessLM(LIKE), "tiny_recal")


def test_data_that_cannot_be_had_is_unavailable(folder, monkeypatch):
    """A task of lm-eval's own whose data is out of reach, in place of its whole index."""
    from models.assets import AssetUnavailable

    class Manager:
        def __init__(self, include_defaults=True, **settings):
            self.all_subtasks = ["arc_easy"] if include_defaults else []

        def load(self, names):
            raise ConnectionError("the hub cannot be reached")

    monkeypatch.setattr(building, "TaskManager", Manager)
    monkeypatch.setattr(building.hub, "reachable", lambda: (False, "no answer within 5 s"))
    with pytest.raises(AssetUnavailable, match=r"arc_easy.*the hub cannot be reached"):
        score_task(HarnessLM(LIKE), "arc_easy")


def test_clustered_stderr_against_the_sandwich_formula():
    """As the regression on a constant gives it, in matrices: (X'X)^-1 (sum X_g' u_g u_g' X_g) (X'X)^-1 * G / (G - 1)."""
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 9, 60)
    x = (rng.random(60) < 0.3 + 0.05 * clusters).astype(float)
    ones = np.ones((60, 1))
    residual = x - x.mean()
    meat = sum(
        ones[clusters == g].T @ np.outer(residual[clusters == g], residual[clusters == g]) @ ones[clusters == g]
        for g in np.unique(clusters)
    )
    bread = np.linalg.inv(ones.T @ ones)
    groups = len(np.unique(clusters))
    expected = np.sqrt((bread @ meat @ bread).item() * groups / (groups - 1))
    assert clustered_stderr(x, clusters) == pytest.approx(expected, rel=1e-12)


def test_clustered_stderr_at_its_limits():
    x = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert clustered_stderr(x, range(7)) == pytest.approx(np.std(x, ddof=1) / np.sqrt(7), rel=1e-12)
    assert clustered_stderr(x, [0] * 7) is None
    assert clustered_stderr([], []) is None
    with pytest.raises(ValueError, match="7 values but 2 clusters"):
        clustered_stderr(x, ["a", "b"])


def test_clustered_stderr_covers_the_truth():
    """Of 400 simulated evaluations, 40 texts of 5 questions each, about 95 in 100 lie within 1.96 standard errors."""
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), 5)
    hits = naive_hits = 0
    for _ in range(400):
        x = np.repeat(rng.normal(size=40), 5) + rng.normal(size=200)
        hits += abs(x.mean()) < 1.96 * clustered_stderr(x, clusters)
        naive_hits += abs(x.mean()) < 1.96 * np.std(x, ddof=1) / np.sqrt(200)
    assert 0.92 < hits / 400 < 0.97
    assert naive_hits / 400 < 0.85


def test_every_score_has_an_interval_that_minds_contexts(folder):
    for task in ("tiny_texts", "tiny_recall"):
        score = score_task(HarnessLM(LIKE), task)
        for row in score.rows:
            assert 0 <= row.ci_low <= row.value <= row.ci_high <= 1 and row.ci_low < row.ci_high
    values = [sample["metrics"]["odd"] for sample in score.samples]
    by_context = score_interval(values, [sample["context_id"] for sample in score.samples])
    assert (score.rows[0].ci_low, score.rows[0].ci_high) == by_context != score_interval(values, range(len(values)))


def test_all_wrong_is_no_certainty(folder):
    path = folder / "data.py"
    path.write_text(path.read_text().replace("float(len(results[0]) % 2)", "0.0"))
    (row,) = score_task(HarnessLM(LIKE), "tiny_recall", contexts=4, length=1).rows
    assert (row.value, row.stderr, row.ci_low) == (0, 0, 0)
    assert row.ci_high == pytest.approx(1.96**2 / (4 + 1.96**2), abs=1e-4)


@pytest.mark.parametrize(
    ("aggregation", "items"), [("perplexity", "-float(size)"), ("weighted_perplexity", "(-float(size), 7)")]
)
def test_metrics_that_are_no_means_are_bootstrapped_by_context(folder, aggregation, items):
    path = folder / "data.py"
    odd = 'return {"odd": float(len(results[0]) % 2)}'
    path.write_text(path.read_text().replace(odd, f'size = doc["number"] + doc["depth"] / 9\n    return {{"odd": {items}}}'))
    path = folder / "tiny_recall.yaml"
    path.write_text(path.read_text().replace("aggregation: mean", f"aggregation: {aggregation}"))
    score = score_task(HarnessLM(LIKE), "tiny_recall", contexts=4)
    (row,) = score.rows
    values = np.array([sample["metrics"]["odd"] for sample in score.samples]).reshape(len(score.samples), -1)
    weight = 7 if aggregation == "weighted_perplexity" else 1
    assert row.value == pytest.approx(np.exp(-values[:, 0].mean() / weight))
    # The delta method: the standard error of exp(x) is exp(x) times that of x.
    by_context = clustered_stderr(values[:, 0], [sample["context_id"] for sample in score.samples]) * row.value / weight
    assert row.stderr == pytest.approx(by_context, rel=0.5)
    assert row.stderr > 1.5 * clustered_stderr(values[:, 0], range(len(values))) * row.value / weight
    assert row.ci_low < row.value < row.ci_high
