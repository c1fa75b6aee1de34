"""Accuracy beside cost: a row a setting, so that any presets and checkpoints of a run can be read against each other.

Each suite stands at its longest length, costs at one length and batch, which the most settings share. Models whose weights
are random, as of a preset that was never trained, are named as such: their scores are chance, their costs are not.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from nha_eval.plots._frames import Frames, clean_text
from nha_eval.plots._lines import measured, places
from nha_eval.plots._settings import setting_label, settings_of, suite_label
from nha_eval.plots._summary import longest_groups, of_group, suite_groups, suite_scores
from nha_eval.plots.accuracy_cost import shared_length

from .content import best_of
from .tables import MISSING, NOT_RUN, Table, count, number, score, size

_SETTING = ["model", "window"]


def random_models(environment: dict) -> set[str]:
    """The models whose weights are random, as environment.json says."""
    return {name for name, about in _models(environment).items() if about.get("random_weights") is True}


def beside_tables(frames: Frames, environment: dict) -> list[Table]:
    """`beside_table` for each device and dtype that costs were measured on, with the settings that were."""
    found = []
    for where, costs in places(frames.costs):
        timed = set(settings_of(measured(costs, "latency_ms")))
        scores = frames.scores
        if where:
            scores = scores[[key in timed for key in zip(scores["model"], scores["window"], strict=True)]]
        table = beside_table(replace(frames, scores=scores, costs=costs), environment)
        if table is not None:
            found.append(replace(table, title=table.title + where))
    return found


def beside_table(frames: Frames, environment: dict) -> Table | None:
    """A row a setting: each suite's score, prefill, decoding, peak memory and state; None without both scores and costs."""
    scores = suite_scores(frames.scores)
    costs = _at_one_point(measured(frames.costs, "latency_ms"))
    if scores.empty or costs.empty:
        return None
    groups, longest = suite_groups(scores), longest_groups(scores)
    parts = [of_group(scores, *group).set_index(_SETTING) for group in longest]
    phases = [costs[costs["phase"] == phase] for phase in ("prefill", "decode")]
    *by_phase, most = (rows.groupby(_SETTING).max(numeric_only=True) for rows in (*phases, costs))
    random, parameters = random_models(environment), _parameters(environment)
    rows, values = [], []
    for setting in settings_of(frames.scores, frames.costs):
        label = setting_label(setting, 60) + (" (random weights)" if setting[0] in random else "")
        told = [_score(part, setting) for part in parts]
        told += [number(_figure(rows, setting, "latency_ms")) for rows in by_phase]
        told += [number(_figure(most, setting, "peak_memory_mb")), size(_figure(most, setting, "state_bytes"))]
        rows.append([label, _millions(parameters.get(setting[0])), *told])
        values.append(
            [
                math.nan,
                *(_whole(part, setting) for part in parts),
                *(_figure(table, setting, "latency_ms") for table in by_phase),
            ]
        )
        values[-1] += [_figure(most, setting, "peak_memory_mb"), _figure(most, setting, "state_bytes")]
    heads = [suite_label(suite, length, groups) for suite, length in longest]
    point = _point(costs)
    columns = ["setting", "weights, M", *heads, f"prefill, ms{point}", f"one token, ms{point}", "peak memory, MiB", "state"]
    less = frozenset(range(1 + len(parts), len(columns) - 1))
    return Table("Accuracy beside cost", columns, rows, best=best_of(values, less))


def beside_text(frames: Frames, environment: dict) -> list[str]:
    """Which models' scores are chance."""
    here = [model for model in dict.fromkeys(frames.scores["model"]) if model in random_models(environment)]
    if not here:
        return []
    return [f"Random weights, never trained, so that scores are chance and costs are not: {', '.join(here)}."]


def _at_one_point(rows: pd.DataFrame) -> pd.DataFrame:
    """Those at the smallest batch and, of it, the length that most settings were measured at."""
    if rows.empty:
        return rows
    smallest = rows["batch_size"].min()
    rows = rows if math.isnan(smallest) else rows[rows["batch_size"] == smallest]
    return rows[rows["length"] == shared_length(rows)]


def _point(costs: pd.DataFrame) -> str:
    length, batch = costs["length"].iloc[0], costs["batch_size"].iloc[0]
    return f" at {count(length)} tokens" + ("" if math.isnan(batch) or batch == 1 else f", batch {count(batch)}")


def _score(part: pd.DataFrame, setting: tuple[str, str]) -> str:
    if setting not in part.index:
        return NOT_RUN
    row = part.loc[[setting]].iloc[0]
    some = "" if row.tasks == row.tasks_total else f" ({row.tasks:.0f} of {row.tasks_total:.0f} tasks)"
    return score(row.value, row.stderr) + some


def _whole(part: pd.DataFrame, setting: tuple[str, str]) -> float:
    """The score of all tasks; NaN where some are missing."""
    row = part.loc[[setting]].iloc[0] if setting in part.index else None
    return math.nan if row is None or row.tasks != row.tasks_total else float(row.value)


def _figure(table: pd.DataFrame, setting: tuple[str, str], column: str) -> float:
    return float(table.at[setting, column]) if setting in table.index else math.nan


def _models(environment: dict) -> dict[str, dict]:
    models = environment.get("models")
    return {clean_text(name): m for name, m in models.items() if isinstance(m, dict)} if isinstance(models, dict) else {}


def _parameters(environment: dict) -> dict[str, float]:
    told = {name: about.get("parameters") for name, about in _models(environment).items()}
    return {name: value for name, value in told.items() if isinstance(value, int) and not isinstance(value, bool)}


def _millions(parameters: float | None) -> str:
    return MISSING if parameters is None else number(parameters / 1e6)
