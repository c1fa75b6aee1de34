"""Scoring alone, without start and loading: one process that holds the checkpoint twice, as `eval` loads it and as
lm-eval does, and scores the task on both in turn. Started by `harness`; each timing is a JSON line on stdout, as soon as it
is there.

    python -m nha_eval.bench.harness_scoring '{"model": "FOLDER", "task": "commonsense_social_iqa", "limit": 20, ...}' 3
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nha_eval.bench.harness_processes import Work, metadata, plain_scores

SIDES = ("lm_eval", "harness")


def timings(work: Work, repeats: int) -> Iterator[dict[str, Any]]:
    """{side, repeat, seconds, processor_s, scores} of each scoring in turn, after an untimed one of each."""
    sides = dict(zip(SIDES, (_plain(work), _harness(work)), strict=True))
    for score in sides.values():
        score(min(2, work.limit))
    for repeat in range(1, repeats + 1):
        for side, score in sides.items():
            began, before = time.perf_counter(), time.process_time()
            scores = score(work.limit)
            times = {"seconds": time.perf_counter() - began, "processor_s": time.process_time() - before}
            yield {"side": side, "repeat": repeat, **times, "scores": scores}


def _harness(work: Work) -> Callable[[int], dict[str, float]]:
    from models.presets import load
    from nha_eval.lm import HarnessLM
    from nha_eval.scoring import score_task

    lm = HarnessLM(load(str(work.model), device=work.device, dtype=work.dtype), batch_size=work.batch)

    def score(limit: int) -> dict[str, float]:
        return {row.metric: row.value for row in score_task(lm, work.task, length=work.length, limit=limit).rows}

    return score


def _plain(work: Work) -> Callable[[int], dict[str, float]]:
    from lm_eval import evaluator
    from lm_eval.defaults import DEFAULT_OTHER_SEED
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tasks import TASKS_PATH

    settings = {"dtype": work.dtype, "device": work.device, "batch_size": work.batch}
    lm = HFLM(pretrained=str(work.model), **settings)
    # lm-eval's own index takes it 11 s to read: start, not scoring.
    told = {**metadata(work), "pretrained": str(work.model)}
    manager = TaskManager(include_path=str(TASKS_PATH), include_defaults=False, metadata=told)

    def score(limit: int) -> dict[str, float]:
        # What `simple_evaluate` does but for its report on the environment, which takes a second a call.
        tasks = manager.load([work.task])
        for task in tasks["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        found = evaluator.evaluate(lm=lm, task_dict=tasks, limit=limit, log_samples=True)
        return plain_scores(found["results"][work.task])

    return score


def main(arguments: list[str]) -> None:
    """Time what the first argument, a Work as JSON, says, as often as the second does."""
    import torch

    asked = json.loads(arguments[0])
    work = Work(**{**asked, "model": Path(asked["model"])})
    torch.set_num_threads(work.threads)
    told = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for timing in timings(work, int(arguments[1])):
            print(json.dumps(timing), file=told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
