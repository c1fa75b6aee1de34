"""The tables of a report, made from a run's frames: scores by suite and task, costs by phase, the environment.

Settings (a model at a window) are rows, tasks and measures are columns, so that a table reads the same for three
settings or thirty.
"""

from __future__ import annotations

import math

import pandas as pd

from nha_eval.plots._frames import Frames, clean_text
from nha_eval.plots._lines import PHASES, phase_groups
from nha_eval.plots._settings import setting_label, settings_of, suite_label
from nha_eval.plots._summary import LOWER_IS_BETTER, of_group, suite_groups, suite_scores, task_scores

from .differences import Differences
from .tables import MISSING, NOT_RUN, STAR, Table, count, interval, number, score, size

# A page of tables longer than this is read by a machine rather than by a person; the CSV files hold everything.
_MOST_ROWS = 600
# Rows that tell of a task's documents, under its settings' scores.
SHARES = {"truncated": "contexts cut, share", "answer_survives": "answers surviving the cut, share"}


def suite_table(frames: Frames, found: Differences | None = None) -> Table | None:
    """Every setting's mean score, a column a suite and length, the best in bold; with `found`, a star where it differs from its
    reference's. None when nothing was scored."""
    table = suite_scores(frames.scores)
    if table.empty:
        return None
    groups = suite_groups(table)
    cells = {
        (row.model, row.window, row.suite, None if math.isnan(row.length) else row.length): row for row in table.itertuples()
    }
    rows, values = [], []
    for model, window in settings_of(table):
        line = [setting_label((model, window), 60)]
        values.append([])
        for suite, length in groups:
            row = cells.get((model, window, suite, None if math.isnan(length) else length))
            whole = row is not None and row.tasks == row.tasks_total
            values[-1].append(row.value if whole else math.nan)
            part = "" if row is None or whole else f" ({row.tasks} of {row.tasks_total} tasks)"
            line.append(NOT_RUN if row is None else score(row.value, row.stderr) + part)
            if row is not None and found is not None:
                shown = {(one.model, one.window): one.value for one in of_group(table, suite, length).itertuples()}
                line[-1] += STAR if found.is_significant((model, window), suite, length, shown) else ""
        rows.append(line)
    best, settings = best_of(values), len(rows)
    constants = [of_group(table, *group)["majority"].mean() for group in groups]
    if any(not math.isnan(value) for value in constants):
        rows.append(["constant answer", *(score(value) for value in constants)])
    columns = ["setting", *(suite_label(suite, length, groups) for suite, length in groups)]
    return _table("Suites", columns, rows, foot=len(rows) - settings, best=best)


def task_tables(frames: Frames) -> list[Table]:
    """A table a suite and length: settings down, its tasks across; cells that are not ok show their status."""
    tasks = task_scores(frames.scores)
    groups = suite_groups(frames.scores)
    return [
        _task_table(of_group(tasks, *group), of_group(frames.scores, *group), suite_label(*group, groups)) for group in groups
    ]


def _task_table(scored: pd.DataFrame, rows: pd.DataFrame, title: str) -> Table:
    names = list(dict.fromkeys(rows["task"]))
    status = {(row.model, row.window, row.task): row.status for row in rows.itertuples() if row.status != "ok"}
    found = {(row.model, row.window, row.task): score(row.value, row.stderr) for row in scored.itertuples()}
    lines = []
    values = {(row.model, row.window, row.task): row.value for row in scored.itertuples()}
    settings = settings_of(rows)
    best = best_of(
        [[values.get((*setting, task), math.nan) for task in names] for setting in settings], _less_is_better(scored, names)
    )
    for model, window in settings:
        cells = [found.get((model, window, task)) or status.get((model, window, task), NOT_RUN) for task in names]
        lines.append([setting_label((model, window), 60), *(clean_text(cell, 40) for cell in cells)])
    by_task = {task: scored[scored["task"] == task] for task in dict.fromkeys(scored["task"])}
    constants = [by_task[task]["majority"].mean() if task in by_task else math.nan for task in names]
    if any(not math.isnan(value) for value in constants):
        lines.append(["constant answer", *(score(value) for value in constants)])
    for metric, label in SHARES.items():
        shares = [rows[(rows["task"] == task) & (rows["metric"] == metric)]["value"].mean() for task in names]
        if any(not math.isnan(share) for share in shares):
            lines.append([label, *(score(share) for share in shares)])
    lines.append(["n", *(_examples(by_task.get(task)) for task in names)])
    metrics = [by_task[task]["metric"].iloc[0] if task in by_task else "" for task in names]
    heads = [clean_text(f"{task} ({metric})" if metric else task, 72) for task, metric in zip(names, metrics, strict=True)]
    return _table(title, ["setting", *heads], lines, foot=len(lines) - len(settings), best=best)


def best_of(values: list[list[float]], less: frozenset[int] = frozenset()) -> frozenset[tuple[int, int]]:
    """(row, column) in a table of the best of each of these columns (of those in `less` the least), which stand behind a column
    of names; of a column with one figure none."""
    found = set()
    for place, column in enumerate(zip(*values, strict=True)):
        known = [value for value in column if not math.isnan(value)]
        if len(known) > 1 and len(set(known)) > 1:
            best = min(known) if place in less else max(known)
            found |= {(row, place + 1) for row, value in enumerate(column) if value == best}
    return frozenset(found)


def _less_is_better(scored: pd.DataFrame, names: list[str]) -> frozenset[int]:
    metrics = dict(zip(scored["task"], scored["metric"], strict=True))
    return frozenset(place for place, name in enumerate(names) if metrics.get(name) in LOWER_IS_BETTER)


def _examples(part: pd.DataFrame | None) -> str:
    if part is None or part["n"].isna().all():
        return MISSING
    low, high = part["n"].min(), part["n"].max()
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def every_score(frames: Frames) -> Table | None:
    """All metrics of all cells, a row a figure; None when nothing was scored."""
    ok = frames.scores[frames.scores["status"] == "ok"]
    if ok.empty:
        return None
    rows = [
        [
            *(clean_text(text, 60) for text in (row.suite, row.task)),
            count(row.length),
            *(setting_label((row.model, row.window), 60), clean_text(row.metric, 40)),
            *(score(row.value, row.stderr or math.nan), interval(row.ci_low, row.ci_high), count(row.n)),
        ]
        for row in ok.head(_MOST_ROWS).itertuples()
    ]
    columns = ["suite", "task", "length", "setting", "metric", "value", "95% interval", "n"]
    return Table("Every metric", columns, rows, 5, len(ok) - len(rows))


def cost_tables(frames: Frames) -> list[Table]:
    """A table a phase and batch size, a row a setting and length."""
    found = []
    for phase, suffix, rows in phase_groups(frames.costs):
        lines = []
        for model, window in settings_of(rows):
            own = rows[(rows["model"] == model) & (rows["window"] == window)].sort_values("length", kind="stable")
            lines += [[setting_label((model, window), 60), count(row.length), *_cost_cells(row)] for row in own.itertuples()]
        columns = [
            "setting",
            "length",
            "latency, ms (quartiles)",
            "runs",
            "cold start, ms",
            "tokens/s",
            "peak memory, MiB",
            "state",
        ]
        found.append(_table(f"{clean_text(PHASES.get(phase, phase), 40)}{suffix}", columns, lines))
    return found


def _cost_cells(row) -> list[str]:
    if row.status != "ok":
        return [clean_text(row.status, 24), *[MISSING] * 5]
    quartiles = (
        f" ({number(row.latency_ms_p25)} to {number(row.latency_ms_p75)})" if row.latency_ms_p25 == row.latency_ms_p25 else ""
    )
    figures = [count(row.repeats), number(row.cold_start_ms), number(row.tokens_per_s), number(row.peak_memory_mb)]
    return [number(row.latency_ms) + quartiles, *figures, size(row.state_bytes)]


def environment_table(environment: dict) -> Table | None:
    """What environment.json holds, nested keys joined by dots, the command left out (the report shows it by itself)."""
    rows = [[clean_text(key, 80), clean_text(value, 400) or MISSING] for key, value in _flat(environment) if key != "command"]
    return _table("Environment", ["what", "value"], rows, labels=2) if rows else None


def _flat(value: object, prefix: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value))]
    return [(prefix, MISSING if value is None else value)]


def _table(title: str, columns: list[str], rows: list[list[str]], labels: int = 1, foot: int = 0, **more) -> Table:
    """The table, cut for length before its last `foot` rows."""
    body, below = rows[: len(rows) - foot], rows[len(rows) - foot :]
    kept = body[:_MOST_ROWS]
    best = frozenset(place for place in more.pop("best", ()) if place[0] < len(kept))
    return Table(title, columns, kept + below, labels, len(body) - len(kept), foot, best, **more)
