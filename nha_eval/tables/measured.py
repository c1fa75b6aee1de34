"""What run folders measured, as figures in the published units: per cent, or a perplexity."""

from __future__ import annotations

import contextlib
import csv
import json
import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nha_eval import yamls
from nha_eval.comparison.folders import Setting
from nha_eval.errors import UserError, nearest, shown
from nha_eval.paths import user_path
from nha_eval.stats import wilson_interval
from nha_eval.store import RUNS
from nha_eval.tables.spec import Column, Metric, PaperTable

NORMAL = 1.96  # half a 95% interval in standard errors
NEEDED = ("model", "window", "task", "protocol", "metric", "value", "stderr", "n", "length", "status", "reason")
UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Figure:
    """A measured figure with its 95% interval, None where that is not known; or, where `value` is None, why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None  # documents
    status: str = ""  # of the cell, where it has no figure: oom, error, unavailable; empty: not run
    reason: str = ""
    run: str = ""


@dataclass
class MeasuredRun:
    """A run folder's scores."""

    name: str
    rows: list[dict[str, str]] = field(default_factory=list)
    parameters: dict[str, float] = field(default_factory=dict)  # model -> how many, where the run recorded it
    random: set[str] = field(default_factory=set)  # models whose weights were never trained
    limits: dict[str, int] = field(default_factory=dict)  # task, or "" for all -> documents that were asked at most

    @property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(Setting(row["model"], row["window"]) for row in self.rows))

    @cached_property
    def by_task(self) -> dict[tuple[str, str, str], list[dict[str, str]]]:
        """Rows by model, window and task: a run of many settings is asked for each of them."""
        found: dict[tuple[str, str, str], list[dict[str, str]]] = {}
        for row in self.rows:
            found.setdefault((row["model"], row["window"], row["task"]), []).append(row)
        return found

    def limit(self, task: str) -> int | None:
        """The documents that were asked at most; None: all."""
        return self.limits.get(task, self.limits.get(""))


def read_measured(given: str) -> MeasuredRun:
    """A run folder, by its path or its name under results/runs, finished or not. UserError where it is none, or is broken."""
    path = user_path(given, "run", "give a run folder")
    folder = None
    # A path longer than a system's longest is one that is not there.
    with contextlib.suppress(OSError):
        folder = next((place for place in (path, RUNS / path) if place.is_dir()), None)
    if folder is None:
        raise UserError(f"no such run: {given!r}; give a run folder, or the name of one under {RUNS}")
    run = MeasuredRun(folder.resolve().name)
    if (folder / "scores.csv").is_file():
        run.rows = _rows(folder / "scores.csv")
    elif any(folder.iterdir()) and not (folder / "spec.yaml").is_file():
        raise UserError(f"{given!r} has neither scores.csv nor spec.yaml: give a run folder, as `eval` leaves it")
    models = _models(folder / "environment.json")
    counts = {name: about.get("parameters") for name, about in models.items()}
    run.parameters = {name: float(count) for name, count in counts.items() if type(count) in (int, float) and 0 < count < 1e16}
    run.random = {name for name, about in models.items() if about.get("random_weights") is True}
    run.limits = _limits(folder / "spec.yaml")
    return run


def _rows(path: Path) -> list[dict[str, str]]:
    again = "give the run's `eval` command again, which rewrites it"
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            lacking = [column for column in NEEDED if column not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(f"{path} is no table of scores (no column {', '.join(lacking)}): {again}")
            rows = [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise UserError(f"{path} cannot be read ({problem}): {again}") from problem
    for line, row in enumerate(rows, start=2):
        for column in ("value", "stderr", "n", "length", "ci_low", "ci_high"):
            try:
                float(row.get(column) or 0)
            except ValueError:
                raise UserError(f"{path}, line {line}: {column} is {shown(row[column])}, no number: {again}") from None
    return rows


def _models(path: Path) -> dict[str, dict[str, Any]]:
    """What the run recorded of its models; empty where it did not, or that is broken."""
    try:
        models = json.loads(path.read_text(encoding="utf-8")).get("models")
        return {name: about for name, about in models.items() if isinstance(about, dict)}
    except (OSError, ValueError, RecursionError, AttributeError):
        return {}


def _limits(path: Path) -> dict[str, int]:
    """What the run's spec says of how many documents were asked: of single tasks, and of all others."""
    try:
        spec = yamls.read(path)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    if not isinstance(spec, dict):
        return {}
    tasks = spec.get("tasks")
    entries: list[Any] = [{"name": "", "limit": spec.get("limit")}, *(tasks if isinstance(tasks, list) else [])]
    named = {entry.get("name"): entry.get("limit") for entry in entries if isinstance(entry, dict)}
    return {name: limit for name, limit in named.items() if isinstance(name, str) and type(limit) is int}


def find_setting(runs: list[MeasuredRun], given: str, where: str) -> Setting:
    """The model, or MODEL:WINDOW, that `given` names in the runs. UserError where there is none, or it has several windows.

    In runs without any score it stands for itself, as one that nothing was measured of.
    """
    there = list(dict.fromkeys(setting for run in runs for setting in run.settings))
    found = [setting for setting in there if str(setting) == given] or [s for s in there if s.model == given]
    if not there:
        return Setting(given, "")
    if not found:
        known = nearest(given, [setting.model for setting in there], what="models of the run")
        raise UserError(f"{where}: the run has no model {given!r}; {known}")
    if len(found) > 1:
        windows = ", ".join(setting.window for setting in found)
        raise UserError(f"{where}: {given!r} was measured at the windows {windows}: say one, as {str(found[0])!r}")
    return found[0]


def parameters_of(runs: list[MeasuredRun], model: str) -> float | None:
    """How many parameters the model has, where a run says it."""
    return next((run.parameters[model] for run in runs if model in run.parameters), None)


def figure(runs: list[MeasuredRun], setting: Setting, table: PaperTable, column: Column) -> Figure:
    """What the setting scored on a column of the table; without a value where it was not run, failed, or cannot be measured."""
    metric = table.spec.metrics[column.metric]
    if metric.not_stated:
        return Figure(reason=metric.not_stated)
    parts = {name: _single(runs, setting, how, tokens) for name, how, tokens in table.measures(column)}
    return _mean(parts) if metric.mean_of else parts[column.metric]


def _single(runs: list[MeasuredRun], setting: Setting, how: Metric, tokens: int | None) -> Figure:
    found = [_in_run(run, setting, how, tokens) for run in runs]
    # A figure wherever there is one; else the reason of the first run that tried.
    return (
        next((f for f in found if f.value is not None), None)
        or next((f for f in found if f.status), None)
        or next((f for f in found if f.reason), Figure())
    )


def _in_run(run: MeasuredRun, setting: Setting, how: Metric, tokens: int | None) -> Figure:
    length = None if tokens is None else float(tokens)
    of_task = [
        row
        for row in run.by_task.get((setting.model, setting.window, how.task), ())
        if (float(row["length"]) if row["length"] else None) == length
    ]
    rows = [row for row in of_task if row["protocol"] == how.protocol]
    if of_task and not rows:
        # Scores under different protocols are not to be compared.
        return Figure(
            reason=f"measured under the protocol {of_task[0]['protocol']!r}, wanted is {how.protocol!r}", run=run.name
        )
    failed = next((row for row in rows if row["status"] != "ok"), None)
    row = next((row for row in rows if row["metric"] == how.metric and row["status"] == "ok"), None)
    if row is None or not row["value"] or math.isnan(float(row["value"])):
        return Figure(status=failed["status"], reason=failed["reason"], run=run.name) if failed else Figure()
    return replace(_scaled(row, how), run=run.name)


def _scaled(row: dict[str, str], how: Metric) -> Figure:
    value, stderr, n = (float(row[column]) if row[column] else None for column in ("value", "stderr", "n"))
    low, high = _interval(row, value, stderr, n, how)
    scale = 100 if how.unit == "percent" else 1
    low, high = (None if bound is None else scale * bound for bound in (low, high))
    return Figure(scale * value, low, high, int(n) if n and math.isfinite(n) else None)


def _interval(
    row: dict[str, str], value: float, stderr: float | None, n: float | None, how: Metric
) -> tuple[float | None, float | None]:
    """The run's own interval, which minds documents that share a text; of older runs, from the standard error; Wilson's where
    that is 0 or not known."""
    bounds = [float(row[bound]) if row.get(bound) else math.nan for bound in ("ci_low", "ci_high")]
    if all(map(math.isfinite, bounds)) and bounds[0] <= bounds[1]:
        return bounds[0], bounds[1]
    if not math.isfinite(value):
        return None, None
    if stderr and stderr > 0 and math.isfinite(stderr):
        return value - NORMAL * stderr, value + NORMAL * stderr
    if how.unit == "percent" and 0 <= value <= 1 and n and 0 < n < math.inf:
        return wilson_interval(value, n)
    return None, None


def _mean(parts: dict[str, Figure]) -> Figure:
    """The mean over tasks, whose errors are independent of each other."""
    lacking = {name: part for name, part in parts.items() if part.value is None}
    tried = next((part for part in lacking.values() if part.status), None)
    if tried:
        return tried
    if lacking:
        told = next((part.reason for part in lacking.values() if part.reason), "")
        some = f"it lacks {', '.join(lacking)}" if len(lacking) < len(parts) else ""
        return Figure(reason=told or some)
    figures = list(parts.values())
    value = sum(part.value for part in figures) / len(figures)
    runs = ", ".join(dict.fromkeys(part.run for part in figures))
    n = sum(part.n for part in figures) if all(part.n for part in figures) else None
    if any(part.low is None or part.high is None for part in figures):
        return Figure(value, n=n, run=runs)
    half = math.sqrt(sum(((part.high - part.low) / 2) ** 2 for part in figures)) / len(figures)
    return Figure(value, value - half, value + half, n, run=runs)
