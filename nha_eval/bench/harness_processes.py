"""Whole processes on one task, timed from their start to their end: `eval` of this project, and plain `lm_eval --model hf`.

Both get the same checkpoint, task, number of documents, batch, dtype, device and threads, and write their results into a folder
of their own, out of which the score is read: what is timed must also be right.

    time_eval(Work(folder, "commonsense_social_iqa", 100), windows=["full"]).seconds
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from nha_eval.environment import ROOT, physical_cores
from nha_eval.errors import one_line
from tasks import TASKS_PATH

# What a choice task's rows hold beside lm-eval's own metrics.
_BESIDE = ("majority", "truncated", "answer_survives")


class RunFailed(RuntimeError):
    """A process that ended with an error, and its last words."""


@dataclass(frozen=True)
class Work:
    """What both sides are asked to do."""

    model: Path  # a folder that Transformers loads
    task: str
    limit: int  # documents
    length: int | None = None  # tokens, of a task that is generated at one
    batch: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = field(default_factory=physical_cores)


@dataclass(frozen=True)
class Timed:
    """One process."""

    seconds: float  # of wall clock, from start to end
    processor_s: float  # seconds of all cores together, of the process and those that it started
    scores: dict[str, float]  # metric -> value; of the first window where there are several
    scoring_s: float | None = None  # of it the time in cells; None where the process does not say


def time_eval(work: Work, windows: list[str], model: str | None = None) -> Timed:
    """`eval` of the task at these windows, into a new folder, its report included. `model` is a name in the place of the
    folder, such as `nha:FOLDER`. Raises RunFailed."""
    with tempfile.TemporaryDirectory() as scratch:
        run, spec = Path(scratch) / "run", Path(scratch) / "spec.yaml"
        asked = {
            **{"models": [model or str(work.model)], "windows": windows, "tasks": [work.task], "limit": work.limit},
            **{"batch": work.batch, "dtype": work.dtype, "device": work.device, "threads": work.threads, "costs": False},
        }
        if work.length:
            asked["lengths"] = [work.length]
        spec.write_text(yaml.safe_dump(asked), encoding="utf-8")
        times = _seconds([sys.executable, "-m", "nha_eval.cli", "eval", str(spec), "--out", str(run)], work)
        cells = [json.loads(file.read_text(encoding="utf-8")) for file in (run / "cells").glob("*.json")]
        with (run / "scores.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    # Out of memory is a result to `eval`; here it is no timing.
    if failed := next((row for row in rows if row["status"] != "ok"), None):
        raise RunFailed(f"eval at window {failed['window']}: {failed['status']}: {failed['reason']}")
    rows = [row for row in rows if row["window"] == windows[0] and row["metric"] not in _BESIDE]
    return Timed(*times, {row["metric"]: float(row["value"]) for row in rows}, sum(cell["seconds"] for cell in cells))


def time_lm_eval(work: Work) -> Timed:
    """Plain `lm_eval --model hf` of the task. Raises RunFailed."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", work.task, "--include_path", str(TASKS_PATH)]
        command += ["--model_args", f"pretrained={work.model},dtype={work.dtype}", "--device", work.device]
        command += ["--batch_size", str(work.batch), "--limit", str(work.limit), "--output_path", scratch, "--log_samples"]
        command += ["--metadata", json.dumps(metadata(work))]
        times = _seconds(command, work)
        (file,) = Path(scratch).rglob("results_*.json")
        results = json.loads(file.read_text(encoding="utf-8"))["results"][work.task]
    return Timed(*times, plain_scores(results))


def metadata(work: Work) -> dict[str, object]:
    """What plain lm-eval is told, so that it makes the documents that `eval` makes."""
    return {"seed": 0, **({"lengths": [work.length]} if work.length else {})}


def plain_scores(results: dict[str, object]) -> dict[str, float]:
    """metric -> value of what lm-eval says of one task, its errors and names left out."""
    named = {key.removesuffix(",none"): value for key, value in results.items() if key.endswith(",none")}
    return {metric: float(value) for metric, value in named.items() if not metric.endswith("_stderr")}


def _seconds(command: list[str], work: Work) -> tuple[float, float]:
    """Seconds of wall clock and of processor time of a command. Raises RunFailed."""
    # Both sides with the same number of threads, and hub libraries that ask nobody: the checkpoint and the data are here.
    environment = {**os.environ, "OMP_NUM_THREADS": str(work.threads), "HF_HUB_OFFLINE": "1"}
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT, env=environment)
    seconds, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    if done.returncode:
        words = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no words"]
        raise RunFailed(f"{' '.join(command[1:4])} ended with code {done.returncode}: {one_line(words[-1])}")
    return seconds, used
