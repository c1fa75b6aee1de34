"""`bench harness`: what the harness costs beside plain `lm_eval`, and what a sweep of windows saves over separate runs.

Three phases, each a pair of sides that take turns, so that what else the machine does falls on both alike:

- `whole`: one task by `eval` and by `lm_eval --model hf`, from the start of the process to its end;
- `scoring`: the same task within one process that holds both models, without start and loading;
- `sweep`: the task at several windows in one `eval`, and in an `eval` a window.

A row is one timing, kept as soon as it is there; the same command goes on where it stopped. Both sides of a task must give the
same score, else the later row says so and is no timing.

    where = torch.device("cpu"), torch.float32
    run(HarnessRun(folder, "smollm2-135m", ["commonsense_social_iqa"], Path("results/runs/bench-harness"), *where))
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from nha_eval.bench import harness_table, machine
from nha_eval.bench.harness_processes import RunFailed, Timed, Work, time_eval, time_lm_eval
from nha_eval.bench.harness_scoring import SIDES
from nha_eval.bench.rows import HARNESS, Rows, read
from nha_eval.environment import ROOT
from nha_eval.errors import DONE, UserError
from nha_eval.plots._summary import primary_metric
from tasks.suites import suite_names, suite_tasks

PACKAGES = ("torch", "transformers", "lm_eval", "datasets", "tokenizers")
WINDOWS = ("16", "64", "256", "1024", "full")
SWEEP_SIDES = ("separate runs", "one run")
SAME_SCORE = 1e-9
SEED = 0  # of tasks that are generated


@dataclass(frozen=True)
class HarnessRun:
    """What is measured, and where the figures go."""

    model: Path  # a folder that Transformers loads
    label: str
    tasks: list[str]
    out: Path
    device: torch.device
    dtype: torch.dtype
    limit: int = 100  # documents a task
    windows: tuple[str, ...] = WINDOWS
    sweep_limit: int = 10  # documents a window
    repeats: int = 3
    batch: int = 1
    fresh: bool = False

    def work(self, task: str, limit: int) -> Work:
        told = next(info for suite in suite_names() for info in suite_tasks(suite) if info.name == task)
        length = min(told.default_lengths, default=None)
        return Work(self.model, task, limit, length, self.batch, machine.dtype_name(self.dtype), str(self.device))


def run(wanted: HarnessRun) -> int:
    """Time what the folder does not hold yet, and print the table; 0 when all rows are there."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    about = {"label": wanted.label, "weights": str(wanted.model.name)}
    sources = machine.digest("nha_eval", "models", "tasks", "kernels")
    same = machine.identity(wanted.device, SEED, PACKAGES, sources) | {"model": wanted.label}
    with Rows(wanted.out, HARNESS, same, wanted.fresh) as rows:
        rows.record(machine.environment(wanted.device, wanted.dtype, SEED, **about, repeats=wanted.repeats))
        for row in _measured(wanted, rows):
            rows.append(row)
            took = f"{row['seconds']:.1f} s" if row["status"] == "ok" else f"{row['status']}: {row['reason']}"
            console.print(f"{row['phase']} {row['task']}, {row['side']}, {row['repeat']}: {took}", markup=False)
    show(wanted.out)
    return DONE


def show(folder: Path) -> None:
    """Print a folder's table. UserError when there is none."""
    rows = read(folder, HARNESS)
    if not rows:
        raise UserError(f"no table of `bench harness` in {folder}; give the folder that it wrote")
    harness_table.show(rows)
    print(folder / HARNESS.file)


def _measured(wanted: HarnessRun, rows: Rows) -> Iterator[dict[str, Any]]:
    for task in wanted.tasks:
        whole, sweep = wanted.work(task, wanted.limit), wanted.work(task, wanted.sweep_limit)
        sides = {"lm_eval": lambda work=whole: time_lm_eval(work), "harness": lambda work=whole: time_eval(work, ["full"])}
        yield from _in_turn(wanted, rows, "whole", whole, "full", sides)
        yield from _scoring(wanted, rows, whole)
        sides = dict(zip(SWEEP_SIDES, _sweeps(wanted, sweep), strict=True))
        yield from _in_turn(wanted, rows, "sweep", sweep, " ".join(wanted.windows), sides)


def _sweeps(wanted: HarnessRun, work: Work) -> tuple[Callable[[], Timed], Callable[[], Timed]]:
    # The layer whose windows this project is about; the plain checkpoint's own layers take any window too.
    model, windows = f"nha:{work.model}", list(wanted.windows)

    def separately() -> Timed:
        runs = [time_eval(work, [window], model) for window in windows]
        seconds, processor_s, scoring_s = (
            sum(getattr(one, name) for one in runs) for name in ("seconds", "processor_s", "scoring_s")
        )
        return Timed(seconds, processor_s, runs[0].scores, scoring_s)

    return separately, lambda: time_eval(work, windows, model)


def _in_turn(
    wanted: HarnessRun, rows: Rows, phase: str, work: Work, windows: str, sides: dict[str, Callable[[], Timed]]
) -> Iterator[dict[str, Any]]:
    """The rows of a phase that are not there yet: one side, then the other, `repeats` times."""
    for repeat in range(1, wanted.repeats + 1):
        for side, time_it in sides.items():
            row = _row(phase, side, work, windows, repeat)
            if not _is_there(rows, row):
                try:
                    timed = time_it()
                except RunFailed as problem:
                    yield {**row, "status": "error", "reason": str(problem)}
                else:
                    yield _with(row, rows, timed)


def _scoring(wanted: HarnessRun, rows: Rows, work: Work) -> Iterator[dict[str, Any]]:
    """One process for all repeats that are not there yet, as loading is no part of them."""
    planned = [(side, repeat) for repeat in range(1, wanted.repeats + 1) for side in SIDES]
    missing = [(side, n) for side, n in planned if not _is_there(rows, _row("scoring", side, work, "full", n))]
    if not missing:
        return
    first = missing[0][1]
    asked = json.dumps({**dataclasses.asdict(work), "model": str(work.model)})
    command = [sys.executable, "-m", "nha_eval.bench.harness_scoring", asked, str(wanted.repeats - first + 1)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(work.threads), "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes, cwd=ROOT, env=environment) as process:
        try:
            for timing in map(json.loads, process.stdout):
                row = _row("scoring", timing["side"], work, "full", timing["repeat"] + first - 1)
                if not _is_there(rows, row):
                    times = timing["seconds"], timing["processor_s"]
                    yield _with(row, rows, Timed(*times, timing["scores"], timing["seconds"]))
        finally:
            process.kill()
    for side, repeat in missing:
        row = _row("scoring", side, work, "full", repeat)
        if not _is_there(rows, row):
            yield {**row, "status": "error", "reason": f"the process that scores ended with code {process.returncode}"}


def _row(phase: str, side: str, work: Work, windows: str, repeat: int) -> dict[str, Any]:
    row = {"phase": phase, "side": side, "task": work.task, "length": work.length, "limit": work.limit}
    row |= {"windows": windows, "repeat": repeat}
    return {**row, "batch": work.batch, "dtype": work.dtype, "device": work.device, "threads": work.threads}


def _is_there(rows: Rows, row: dict[str, Any]) -> bool:
    return HARNESS.key_of(row) in {HARNESS.key_of(other) for other in rows.rows}


def _with(row: dict[str, Any], rows: Rows, timed: Timed) -> dict[str, Any]:
    """The row with its figures, unless its score is another than the rows before it have."""
    metric = primary_metric(list(timed.scores))
    score = timed.scores[metric] if metric else math.nan
    same = ("phase", "task", "limit", "windows", "batch", "dtype")
    for other in rows.rows:
        alike = other["status"] == "ok" and all(other[name] == str(row[name]) for name in same)
        if alike and not abs(float(other["score"]) - score) <= SAME_SCORE:
            reason = f"its score is {score!r}, that of {other['side']} {other['score']}: what is not the same is not compared"
            return {**row, "status": "error", "reason": reason}
    # A load beyond the threads says that other work ran on the machine meanwhile.
    figures = {name: getattr(timed, name) for name in ("seconds", "processor_s", "scoring_s")}
    figures |= {"score": score, "load_1m": os.getloadavg()[0]}
    return {**row, **figures, "status": "ok"}
