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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lm_eval import evaluator
from lm_eval.api import task as lm_eval_task
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

from nha_eval.answers import Answers
from nha_eval.building import build
from nha_eval.placing import answer_place
from nha_eval.stats import bootstrap_stderr, clustered_stderr, score_interval
from nha_eval.truncation import fate, shares
from tasks.protocols import protocol_name

NORMAL = 1.96  # half a 95% interval in standard errors
ASKED = 400  # characters of a prompt's end, and of a choice, kept with a document's record
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
    n: int
    length: int | None
    ci_low: float | None = None
    ci_high: float | None = None


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
    truncation: str | None = None,
    tokenizer: str | None = None,
    data: Mapping[str, str] | None = None,
    answers: Answers | None = None,
    bootstrap_iters: int = 1000,
) -> TaskScore:
    """Run the task on `lm` (an lm-eval model) and return its scores.

    `length` (tokens), `contexts` (their number) and `seed` reach tasks that are generated, through lm-eval's
    metadata; `limit` takes the first documents. `truncation` (a policy of `tasks.hub_recall.cutting`) and `tokenizer` (a folder
    or hub id) change how a task cuts its contexts, and with it the protocol's name; by default they are cut as the protocol
    says, in the model's own tokens. `data` maps names of data sets or hub ids to local folders or files. `answers`
    are what a `HarnessLM` knows of this very task, weights and windows; by default nothing. lm-eval's own seeds stay at their
    defaults. `bootstrap_iters` is for metrics whose standard error is bootstrapped, such as perplexity.
    Raises UserError for an unknown task, ValueError for data that does not fit and AssetUnavailable for data that cannot be
    had.
    """
    settings = {"length": length, "seed": seed, "contexts": contexts, "truncation": truncation, "tokenizer": tokenizer}
    loaded = task_at_hand(lm, task_name, **settings, data=data)
    truncated = getattr(lm, "truncated", 0)
    kept = getattr(lm, "kept", {})
    kept.clear()
    if hasattr(lm, "answers"):
        # What it answered last may have been at another window.
        lm.answers = Answers() if answers is None else answers
    with without_noise():
        results = evaluator.evaluate(lm=lm, task_dict=loaded, limit=limit, bootstrap_iters=bootstrap_iters, log_samples=True)
    reads = getattr(lm, "tokenizer", None)  # the model's, whatever contexts are cut in
    cut = getattr(lm, "truncated", 0) - truncated
    if task_name in loaded["groups"]:
        return TaskScore(*_of_group(task_name, loaded, results, reads), cut)
    task = loaded["tasks"][task_name]
    figures, logged = results["results"][task_name], results["samples"][task_name]
    common = {"task": task_name, "length": length, **_provenance(task)}
    rows = [ScoreRow(**common, **figure) for figure in _figures(figures, logged, task.aggregation(), bootstrap_iters)]
    if task.OUTPUT_TYPE == "multiple_choice":
        rows.append(ScoreRow(**common, metric="majority", **_majority(task, logged)))
    fates = {sample["doc_id"]: fate(sample, kept) for sample in logged}
    known = {doc_id: found for doc_id, found in fates.items() if found is not None}
    rows += [ScoreRow(**common, **figure) for figure in shares(list(known.values()))]
    samples = [{**record, **known.get(record["doc_id"], {})} for record in _samples(task, logged, reads)]
    return TaskScore(rows, samples, cut)


def task_at_hand(
    lm: Any,
    task_name: str,
    *,
    length: int | None = None,
    seed: int = 0,
    contexts: int | None = None,
    truncation: str | None = None,
    tokenizer: str | None = None,
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The task as `building.build` gives it, ready to be asked of `lm`, with lm-eval's own seeds set; arguments and what is
    raised as of `score_task`.
    """
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    metadata = {
        **{"seed": seed, "lengths": None if length is None else [length], "contexts": contexts},
        **{"truncation": truncation, "tokenizer": tokenizer},
    }
    given = {key: value for key, value in metadata.items() if value is not None}
    with without_noise():
        loaded = build(task_name, given, data=data, tokenizer=getattr(lm, "tokenizer", None))
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    return loaded


def _of_group(
    name: str, loaded: dict[str, Any], results: dict[str, Any], tokenizer: Any
) -> tuple[list[ScoreRow], list[dict[str, Any]]]:
    """A group's own figures, as lm-eval pools them, and its tasks' records one after another."""
    group, told = loaded["groups"][name], results["results"][name]
    samples: list[dict[str, Any]] = []
    for task_name, task in sorted(loaded["tasks"].items()):
        records = _samples(task, results["samples"][task_name], tokenizer)
        samples += [{**record, "doc_id": len(samples) + i, "task": task_name} for i, record in enumerate(records)]
    common = {"task": name, "length": None, "task_version": str(group.version), "protocol": "lmeval"}
    rows = []
    for key, value in told.items():
        metric, comma, _ = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float, np.number)):
            stderr = _number(told.get(key.replace(metric, f"{metric}_stderr", 1)))
            bounds = _bounds(_normal_interval(float(value), stderr))
            rows.append(ScoreRow(**common, metric=metric, value=float(value), stderr=stderr, n=len(samples), **bounds))
    return rows, samples


@contextmanager
def without_noise() -> Iterator[None]:
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
    protocol = metadata.get("protocol", "lmeval")
    if metadata.get("cut"):
        protocol = protocol_name(protocol, metadata["cut"], metadata.get("truncation"), metadata.get("tokenizer"))
    return {"task_version": str(task.VERSION), "protocol": str(protocol)}


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
    known = [source_document(sample["doc"]) for sample in samples]
    known = [context for context in known if context is not None]
    return len(set(known)) < len(known)


def source_document(doc: dict[str, Any]) -> Any:
    """What tells documents on one text; lm-eval's fda and swde name the file that several questions are on."""
    return doc.get("context_id", doc.get("file_name"))


def _contexts(samples: list[dict[str, Any]]) -> list[str | int]:
    """Each document's context; one without any is its own."""
    return [i if c is None else str(c) for i, c in enumerate(source_document(sample["doc"]) for sample in samples)]


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


def _samples(task: Any, logged: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """A record a document, in the documents' order: what was asked (its hash and its end), right, answered, and each metric's
    value.

    `asked` is the prompt's last ASKED characters, `choices` what there was to choose from: reports show them beside answers.
    `distance` is the tokens that come after the first one of the answer in the prompt, `depth` the share of the text before
    it; None where the document does not tell. `correct` is the first metric's value where that is a number: of a choice task
    "acc", of a recall task "contains".
    """
    records: dict[int, dict[str, Any]] = {}
    for sample in sorted(logged, key=lambda s: s["doc_id"]):
        doc = sample["doc"]
        if sample["doc_id"] not in records:
            gold, prediction = _answer(task, sample)
            place = answer_place(doc, sample["arguments"][0][0], tokenizer)
            records[sample["doc_id"]] = {
                "doc_id": sample["doc_id"],
                "context_id": source_document(doc),
                "prompt_hash": sample["prompt_hash"],
                "asked": str(sample["arguments"][0][0])[-ASKED:],
                "choices": _shown_choices(task, doc),
                "gold": gold,
                "prediction": prediction,
                "correct": None,
                "metrics": {},
                "length": doc.get("length"),
                "depth": doc.get("depth", place and place.depth),
                "distance": place and place.distance,
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


def _shown_choices(task: Any, doc: dict[str, Any]) -> list[str] | None:
    return [choice[:ASKED] for choice in _choices(task, doc)[0]] if task.OUTPUT_TYPE == "multiple_choice" else None


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if isinstance(value, np.generic):
        value = value.item()
    return json.loads(json.dumps(value, default=str))
