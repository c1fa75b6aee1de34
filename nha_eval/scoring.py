"""One task's scores: lm-eval builds the task, runs it and computes every metric; this turns the results into rows.

Values are lm-eval's own, to the last digit. Added to them: a standard error that minds documents sharing a context, a 95%
interval, the score of the best constant answer beside a choice task's accuracy, and one small record for each document.

    from models.presets import load
    from nha_eval.lm import HarnessLM
    score_task(HarnessLM(load("smollm2-135m")), "recall_needle", length=512, contexts=4).rows

lm-eval's `evaluate` is used, with the seeds of `simple_evaluate`, whose report on the environment takes seconds a call.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lm_eval import evaluator
from lm_eval.api import task as lm_eval_task
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from nha_eval import hub
from nha_eval.errors import UserError, nearest, one_line
from nha_eval.stats import bootstrap_stderr, clustered_stderr, score_interval
from tasks import TASKS_PATH

NORMAL = 1.96  # half a 95% interval in standard errors
# Of these, each over pairs (log-likelihood, weight), lm-eval gives no error.
RATIOS = (weighted_perplexity, bits_per_byte)


@dataclass(frozen=True)
class ScoreRow:
    """One figure: `value` of `metric` over `n` documents; `stderr` and the 95% interval from `ci_low` to `ci_high` are None
    where they are not defined (one document, unless its answer is right or wrong; a metric with neither form).
    """

    task: str
    task_version: str
    protocol: str
    metric: str
    value: float
    stderr: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    length: int | None


@dataclass(frozen=True)
class TaskScore:
    """What a task gave: the rows, a record a document, and how many requests were cut to fit the model."""

    rows: list[ScoreRow]
    samples: list[dict[str, Any]]
    truncated: int = field(default=0)


def score_task(
    lm: Any,
    task_name: str,
    *,
    length: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    contexts: int | None = None,
    bootstrap_iters: int = 1000,
) -> TaskScore:
    """Run the task on `lm` (an lm-eval model) and return its scores.

    `length` (tokens), `contexts` (their number) and `seed` reach tasks that are generated, through lm-eval's
    metadata; `limit` takes the first documents. lm-eval's own seeds stay at their defaults. `bootstrap_iters` is for
    metrics whose standard error is bootstrapped, such as perplexity. Raises UserError for an unknown task and
    AssetUnavailable for data that cannot be had.
    """
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    metadata = {"seed": seed, "lengths": None if length is None else [length], "contexts": contexts}
    with _without_noise():
        task = _build(task_name, {key: value for key, value in metadata.items() if value is not None})
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)

    truncated = getattr(lm, "truncated", 0)
    with _without_noise():
        results = evaluator.evaluate(
            lm=lm, task_dict={"tasks": {task_name: task}}, limit=limit, bootstrap_iters=bootstrap_iters, log_samples=True
        )
    figures, logged = results["results"][task_name], results["samples"][task_name]
    common = {"task": task_name, "length": length, **_provenance(task)}
    rows = [ScoreRow(**common, **figure) for figure in _figures(figures, logged, task.aggregation(), bootstrap_iters)]
    if task.OUTPUT_TYPE == "multiple_choice":
        rows.append(ScoreRow(**common, metric="majority", **_majority(task, logged)))
    return TaskScore(rows, _samples(task, logged), getattr(lm, "truncated", 0) - truncated)


def _build(name: str, metadata: dict[str, Any]) -> Any:
    """The task `name`: one of this project's, or else one of lm-eval's own, whose index takes 11 s to read."""
    manager = TaskManager(include_path=str(TASKS_PATH), include_defaults=False, metadata=metadata)
    if name in manager.all_subtasks:
        return manager.load([name])["tasks"][name]
    ours = manager.all_subtasks
    manager = TaskManager(include_path=str(TASKS_PATH), metadata=metadata)
    if name not in manager.all_subtasks:
        hint = nearest(name, [*ours, *manager.all_subtasks], what="this project's")
        raise UserError(f"no such task: {name!r}; {hint}")
    from models.assets import AssetUnavailable

    try:
        with _hub_mode():
            return manager.load([name])["tasks"][name]
    except OSError as problem:
        raise AssetUnavailable(f"the data of task {name!r} cannot be had: {one_line(problem)}") from problem


@contextmanager
def _hub_mode() -> Iterator[None]:
    """Keeps to the local cache when the hub does not answer, instead of minutes of retries."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not all(before) and not hub.reachable()[0]:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keeps back lm-eval's bar over the prompts, and its hint on metadata each time a task with its own data set is built."""
    bar, level = lm_eval_task.tqdm, lm_eval_task.eval_logger.level
    lm_eval_task.tqdm = lambda items, **_: items
    lm_eval_task.eval_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        lm_eval_task.tqdm = bar
        lm_eval_task.eval_logger.setLevel(level)


def _provenance(task: Any) -> dict[str, str]:
    """The task's version, and its protocol: the name under which scores may be compared."""
    metadata = task.config.metadata or {}
    return {"task_version": str(task.VERSION), "protocol": str(metadata.get("protocol", "lmeval"))}


def _figures(
    results: dict[str, Any], logged: list[dict[str, Any]], aggregations: dict[str, Any], resamples: int
) -> Iterator[dict[str, Any]]:
    """metric, value, stderr, interval and n of each metric that lm-eval computed."""
    for key, value in results.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float, np.number)):
            continue
        used = [sample for sample in logged if sample["filter"] == filter_name and metric in sample]
        values = [sample[metric] for sample in used]
        stderr, interval = _number(results.get(f"{metric}_stderr,{filter_name}")), None
        if _is_mean(value, values):
            if _share_contexts(used):
                stderr = clustered_stderr(values, _contexts(used))
            interval = score_interval(values, _contexts(used))
        else:
            # lm-eval bootstraps some of these, over documents; where they share contexts that would be too small.
            smooth = aggregations.get(metric) in RATIOS
            if smooth or (stderr is not None and _share_contexts(used)):
                stderr = _bootstrapped(aggregations[metric], values, _contexts(used), resamples)
            interval = _normal_interval(float(value), stderr)
        name = metric if filter_name == "none" else key
        yield {"metric": name, "value": float(value), "stderr": stderr, **_bounds(interval), "n": len(used)}


def _bootstrapped(aggregate: Any, values: list[Any], contexts: list[Any], resamples: int) -> float | None:
    try:
        return _number(bootstrap_stderr(aggregate, values, contexts, resamples))
    except (OverflowError, ZeroDivisionError):
        # A perplexity beyond all numbers in one resample has no standard error; the score itself stands.
        return None


def _normal_interval(value: float, stderr: float | None) -> tuple[float, float] | None:
    known = stderr and math.isfinite(value) and math.isfinite(stderr)
    return (value - NORMAL * stderr, value + NORMAL * stderr) if known else None


def _bounds(interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"ci_low": low, "ci_high": high}


def _share_contexts(samples: list[dict[str, Any]]) -> bool:
    known = [sample["doc"].get("context_id") for sample in samples]
    known = [context for context in known if context is not None]
    return len(set(known)) < len(known)


def _contexts(samples: list[dict[str, Any]]) -> list[str | int]:
    """Each document's context; one without any is its own."""
    return [i if c is None else str(c) for i, c in enumerate(sample["doc"].get("context_id") for sample in samples)]


def _is_mean(value: float, values: list[Any]) -> bool:
    if not all(isinstance(v, (bool, int, float, np.number)) for v in values):
        return False
    return math.isclose(value, float(np.mean(values)), rel_tol=1e-9, abs_tol=1e-12)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float, np.number)) and not math.isnan(value) else None


def _choices(task: Any, doc: dict[str, Any]) -> tuple[list[str], list[int]]:
    """The answers of a choice task's document and the positions of the right ones, read as lm-eval reads them."""
    choices = list(task.doc_to_choice(doc))
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    found = [
        choices.index(g) if isinstance(g, str) and g in choices else g for g in (gold if isinstance(gold, list) else [gold])
    ]
    return choices, [int(g) for g in found if not isinstance(g, str) and 0 <= int(g) < len(choices)]


def _majority(task: Any, logged: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of always giving the one answer that is right most often.

    The answer is a text where all documents offer the same texts (in whatever order), else a position.
    """
    samples = list({sample["doc_id"]: sample for sample in logged}.values())
    read = [_choices(task, sample["doc"]) for sample in samples]
    same_texts = len({frozenset(choices) for choices, _ in read}) == 1
    right = [{choices[g] if same_texts else g for g in gold} for choices, gold in read]
    counts = Counter(answer for answers in right for answer in answers)
    best = max(counts, key=lambda answer: (counts[answer], str(answer)), default=None)
    values = [float(best in answers) for answers in right]
    contexts = _contexts(samples)
    stderr, interval = clustered_stderr(values, contexts), score_interval(values, contexts)
    return {"value": float(np.mean(values)), "stderr": stderr, **_bounds(interval), "n": len(values)}


def _samples(task: Any, logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A record a document, in the documents' order: what was asked (its hash), right, answered, and each metric's
    value.

    `correct` is the first metric's value where that is a number: of a choice task "acc", of a recall task "contains".
    """
    records: dict[int, dict[str, Any]] = {}
    for sample in sorted(logged, key=lambda s: s["doc_id"]):
        doc = sample["doc"]
        if sample["doc_id"] not in records:
            gold, prediction = _answer(task, sample)
            records[sample["doc_id"]] = {
                "doc_id": sample["doc_id"],
                "context_id": doc.get("context_id"),
                "prompt_hash": sample["prompt_hash"],
                "gold": gold,
                "prediction": prediction,
                "correct": None,
                "metrics": {},
                "length": doc.get("length"),
                "depth": doc.get("depth"),
            }
        record = records[sample["doc_id"]]
        for metric in sample["metrics"]:
            name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
            record["metrics"][name] = _plain(sample[metric])
        first = next(iter(record["metrics"].values()), None)
        record["correct"] = first if isinstance(first, (int, float)) else None
    return list(records.values())


def _answer(task: Any, sample: dict[str, Any]) -> tuple[Any, Any]:
    """(gold, prediction): positions for choices, else the accepted answers and the text (or lm-eval's pair) given."""
    given = sample["filtered_resps"]
    if task.OUTPUT_TYPE == "multiple_choice":
        choices, gold = _choices(task, sample["doc"])
        logprobs = [logprob for logprob, _ in given[: len(choices)]]
        return gold[0] if len(gold) == 1 else gold, int(np.argmax(logprobs))
    return _plain(sample["doc"].get("answers", sample["target"])), _plain(given[0])


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    return json.loads(json.dumps(value, default=str))
