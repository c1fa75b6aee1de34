"""Several runs as one: of several models, machines and dates, with what must not be compared kept apart by its name.

- A model that several runs measured at the same place (a task at a length and window, a length and phase), or whose weights are
  not the same in them, stands once a run, as `MODEL @ RUN`. Else its settings go together: windows of one model that were
  scored in two runs are one line.
- A suite whose tasks differ in protocol or version from run to run, or were scored on another kind of device or in another
  dtype, is so many suites, as `SUITE [cuda bfloat16]`: no mean, plot, sentence or test spans two of them.
- Costs bear the machine's name (`hardware`), and only those of one machine and dtype share a panel or a table.

    from nha_eval.report.joining import join
    join([read_folder("results/runs/a"), read_folder("results/runs/b")]).frames.scores
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nha_eval.comparison.folders import RunScores, ScoredTask, Setting
from nha_eval.plots._answers import answer_frame, read_answers
from nha_eval.plots._frames import TABLES, Frames, clean_text

from .runs import Run, read_folder

_CELL = {"scores": ["window", "task", "length"], "costs": ["window", "phase", "length", "batch_size"]}
_CELL["telemetry"] = _CELL["scores"]


@dataclass(frozen=True)
class Joined:
    """What a report shows of one run or several: tables and documents in which nothing bears a name that is not its own, the
    runs themselves, and what was kept apart and why, a sentence each."""

    name: str
    frames: Frames
    scored: RunScores | None
    environment: dict  # of one run its own; of several their `models` alone
    runs: list[Run]
    apart: list[str] = field(default_factory=list)


def join(runs: list[Run]) -> Joined:
    """The runs as one; a single one stays as it is."""
    if len(runs) == 1:
        (run,) = runs
        return Joined(run.name, run.frames, run.scored, run.environment, runs)
    runs = _named_apart(runs)
    models, why_models = _model_names(runs)
    suites, why_suites = _suite_names(runs)
    frames = [_renamed(run, place, models, suites) for place, run in enumerate(runs)]
    whole = Frames(*(pd.concat([getattr(one, table) for one in frames], ignore_index=True) for table in TABLES))
    about = {
        models.get((place, clean_text(name)), clean_text(name)): what
        for place, run in enumerate(runs)
        for name, what in _models(run).items()
    }
    apart = [*why_models, *why_suites, *_why_costs(whole.costs)]
    scored = _join_scored(runs, models, suites)
    return Joined(" + ".join(run.name for run in runs), whole, scored, {"models": about}, runs, apart)


def join_folders(folders: list[Path]) -> Frames:
    """The tables of several runs as one, answers among them, for a plot."""
    whole = join([read_folder(folder) for folder in folders])
    answers = read_answers(whole.scored) if whole.scored else []
    return dataclasses.replace(whole.frames, answers=answer_frame(answers))


def _named_apart(runs: list[Run]) -> list[Run]:
    seen: Counter[str] = Counter()
    named = []
    for place, run in enumerate(runs, 1):
        seen[run.name] += 1
        name = run.name if seen[run.name] == 1 else f"{run.name} ({seen[run.name]})"
        named.append(dataclasses.replace(run, name=name, place=place))
    return named


def _models(run: Run) -> dict:
    models = run.environment.get("models")
    return {name: about for name, about in models.items() if isinstance(about, dict)} if isinstance(models, dict) else {}


def _model_names(runs: list[Run]) -> tuple[dict[tuple[int, str], str], list[str]]:
    """(place of the run, model) -> its name in the whole, of those that get another; and why."""
    where: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        tables = (run.frames.scores, run.frames.costs, run.frames.telemetry)
        for model in dict.fromkeys(model for table in tables for model in table["model"]):
            where.setdefault(model, []).append(place)
    names: dict[tuple[int, str], str] = {}
    why: dict[tuple[str, str], list[str]] = {}
    for model, found in where.items():
        own = [runs[place] for place in found]
        reason = _unlike(own, model) if len(own) > 1 else ""
        if reason:
            names |= {(place, model): f"{model} @ {runs[place].name}" for place in found}
            why.setdefault((", ".join(run.name for run in own), reason), []).append(model)
    said = [
        f"{', '.join(models)}: kept apart by run ({listed}), as {reason.format(its='their' if len(models) > 1 else 'its')}."
        for (listed, reason), models in why.items()
    ]
    return names, said


def _unlike(runs: list[Run], model: str) -> str:
    """Why the runs' figures of the model are not one model's; empty where they are."""
    hashes = [_models(run).get(model, {}).get("weights_hash") for run in runs]
    if len({str(known) for known in hashes if known is not None}) > 1:
        return "{its} weights are not the same"
    if _unlike_windows(runs, model):
        return "a setting of one name has other windows in each"
    return "each run measured the same of it" if _measured_twice(runs, model) else ""


def _measured_twice(runs: list[Run], model: str) -> bool:
    """Whether more than one of the runs measured the same of the model."""
    for table, columns in _CELL.items():
        tables = [getattr(run.frames, table) for run in runs]
        cells = pd.concat([rows[rows["model"] == model][columns].drop_duplicates() for rows in tables])
        if cells.duplicated().any():
            return True
    return False


def _unlike_windows(runs: list[Run], model: str) -> bool:
    """Whether a setting by name gives the layers other windows in one run than in another."""
    seen: dict[str, object] = {}
    for run in runs:
        for setting in run.scored.tasks if run.scored else ():
            if clean_text(setting.model) == model:
                windows = run.scored.windows_of(setting)
                if seen.setdefault(setting.window, windows) != windows:
                    return True
    return False


def _suite_names(runs: list[Run]) -> tuple[dict[tuple, str], list[str]]:
    """(place of the run, suite, device, dtype) -> the suite's name in the whole, of those that get another; and why."""
    sheets: dict[str, dict[tuple[int, str, str], dict[str, tuple[str, str]]]] = {}
    for place, run in enumerate(runs):
        rows = run.frames.scores
        columns = ["suite", "device", "dtype", "task", "task_version", "protocol"]
        for suite, device, dtype, task, *made in rows[columns].drop_duplicates().itertuples(index=False):
            sheets.setdefault(suite, {}).setdefault((place, device, dtype), {})[task] = tuple(made)
    names, why = {}, []
    for suite, own in sheets.items():
        groups: list[tuple[tuple[str, str], dict, list[tuple]]] = []
        for (place, device, dtype), tasks in own.items():
            kind = (device.split(":")[0], dtype)
            for there, known, members in groups:
                if there == kind and all(known.get(task, made) == made for task, made in tasks.items()):
                    known |= tasks
                    members.append((place, device, dtype))
                    break
            else:
                groups.append((kind, dict(tasks), [(place, device, dtype)]))
        if len(groups) < 2:
            continue
        labels = _labels(groups)
        for label, (_, _, members) in zip(labels, groups, strict=True):
            names |= {(place, suite, device, dtype): f"{suite} [{label}]" for place, device, dtype in members}
        listed = "; ".join(
            f"[{label}] {', '.join(dict.fromkeys(runs[place].name for place, _, _ in members))}"
            for label, (_, _, members) in zip(labels, groups, strict=True)
        )
        why.append(f"Scores of {suite} are not compared across {listed}.")
    return names, why


def _labels(groups: list[tuple[tuple[str, str], dict, list]]) -> list[str]:
    """What tells each group of one suite from the others: the device and dtype, and the tasks made otherwise."""
    kinds = {kind for kind, _, _ in groups}
    labels = []
    for kind, tasks, _ in groups:
        words = [" ".join(filter(None, kind))] if len(kinds) > 1 else []
        rivals = [known for other, known, _ in groups if other == kind and known is not tasks]
        task = next((task for task in tasks for known in rivals if known.get(task, tasks[task]) != tasks[task]), None)
        if task is not None:
            version, protocol = tasks[task]
            same_version = all(known.get(task, tasks[task])[0] == version for known in rivals)
            words.append(f"{task} by {protocol}" if same_version else f"{task} {version}")
        labels.append(", ".join(words) or "others")
    twice = Counter(labels)
    return [label if twice[label] == 1 else f"{label}, {place}" for place, label in enumerate(labels, 1)]


def _renamed(run: Run, place: int, models: dict, suites: dict) -> Frames:
    tables = {}
    for name in TABLES:
        table = getattr(run.frames, name).copy()
        # A suite's name goes by device and dtype; answers have none, and are read anew from what was scored.
        if "suite" in table and "device" in table:
            keys = zip(table["suite"], table["device"], table["dtype"], strict=True)
            table["suite"] = [suites.get((place, *key), key[0]) for key in keys]
        if name == "costs":
            table["hardware"] = [_hardware(run, *key) for key in zip(table["model"], table["device"], strict=True)]
        if "model" in table:
            table["model"] = [models.get((place, model), model) for model in table["model"]]
        tables[name] = table
    return Frames(**tables)


def _hardware(run: Run, model: str, device: str) -> str:
    """The machine that a cost was measured on, so far as the run tells."""
    name = _models(run).get(model, {}).get("device_name") or run.environment.get("gpu")
    if device.startswith("cpu") or not isinstance(name, str) or name == "cpu":
        cores, cpu = run.environment.get("cores"), run.environment.get("cpu")
        name = f"{cpu}, {cores} cores" if cpu and cores else cpu
    # Two machines that nothing is known of might be unlike ones.
    return clean_text(name, 60) if isinstance(name, str) and name else f"machine of {run.name}"


def _why_costs(costs: pd.DataFrame) -> list[str]:
    machines = [f"{machine} ({dtype})" for machine, dtype in costs[["hardware", "dtype"]].drop_duplicates().values]
    return [f"Costs are not compared across machines and dtypes: {'; '.join(machines)}."] if len(machines) > 1 else []


def _join_scored(runs: list[Run], models: dict, suites: dict) -> RunScores | None:
    known = [(place, run) for place, run in enumerate(runs) if run.scored is not None]
    if not known:
        return None
    whole = RunScores(Path(), name="joined")
    for place, run in known:
        for setting, tasks in run.scored.tasks.items():
            name = models.get((place, clean_text(setting.model)), setting.model)
            own = whole.tasks.setdefault(Setting(name, setting.window), {})
            own |= {key: _scored(task, place, name, suites) for key, task in tasks.items()}
        whole.broken += run.scored.broken
    return whole


def _scored(task: ScoredTask, place: int, model: str, suites: dict) -> ScoredTask:
    cell = task.cell
    key = (place, *(clean_text(cell.get(name) or "") for name in ("suite", "device", "dtype")))
    about = {**cell, "model": model, "suite": suites.get(key, cell.get("suite"))}
    return ScoredTask({**task.record, "cell": about}, task.samples)
