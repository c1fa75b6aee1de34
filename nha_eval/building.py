"""Building an lm-eval task by name: this project's, one of lm-eval's that a suite holds, or any other of lm-eval's.

The last kind takes 11 s, the time that lm-eval needs to read its whole index. Data comes from the hub, the hub's local
cache, or the folders and files that the user gave in its place. Where it cannot be had, the task is AssetUnavailable,
found out within the hub's PATIENCE.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from nha_eval import hub
from nha_eval.errors import UserError, nearest, one_line
from tasks import TASKS_PATH
from tasks.hub_data import given_for, read_local
from tasks.suites import TaskInfo, lm_eval_folder, own_task
from tasks.tokenizing import counting_with

SILENCE_LASTS = 60.0  # seconds
_silent_since = [-math.inf]


def build(
    name: str, metadata: dict[str, Any], *, data: Mapping[str, str] | None = None, tokenizer: Any = None
) -> dict[str, Any]:
    """What lm-eval's `evaluate` takes for the task `name`: {"tasks": {name: task}, "groups": ..., "group_map": ...}.

    A group of tasks that a suite holds as one (mmlu) has them all under "tasks" and itself under "groups".

    `metadata` goes to the task, over its own; `data` maps names of data sets or hub ids to local folders or files; tasks that
    count tokens count those of `tokenizer`. Raises UserError for an unknown task, ValueError for data that does not
    fit, AssetUnavailable where it cannot be had.
    """
    data = data or {}
    ours = TaskManager(include_path=str(TASKS_PATH), include_defaults=False, metadata={**metadata, "data": dict(data)})
    if name in ours.all_subtasks:
        own = (ours.task_index[name].cfg or {}).get("metadata") or {}
        with counting_with(tokenizer), _having(name, _wanted_of_hub(own.get("sources") or {}, data, metadata)):
            return ours.load([name])
    if (info := own_task(name)) is not None and info.folder is not None:
        return _lm_evals(info, metadata, data)
    manager = TaskManager(include_path=str(TASKS_PATH), metadata=metadata)
    if name not in manager.all_subtasks:
        hint = nearest(name, [*ours.all_subtasks, *manager.all_subtasks], what="this project's")
        raise UserError(f"no such task: {name!r}; {hint}")
    hub_id = (manager.task_index[name].cfg or {}).get("dataset_path") or name
    with _having(name, _wanted_of_hub({name: hub_id}, data)), _in_place_of_hub(hub_id, given_for(name, hub_id, data)):
        return manager.load([name])


def _lm_evals(info: TaskInfo, metadata: dict[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """One of lm-eval's own tasks or groups, by the folder that it stands in."""
    manager = TaskManager(include_path=str(lm_eval_folder() / info.folder), include_defaults=False, metadata=metadata)
    ((source, hub_id),) = info.sources
    with _having(info.name, _wanted_of_hub({source: hub_id}, data)), _in_place_of_hub(hub_id, given_for(source, hub_id, data)):
        loaded = manager.load([info.name])
    for task in loaded["tasks"].values():
        if info.shots is not None:
            task.set_config(key="num_fewshot", value=info.shots)
    return loaded


def _wanted_of_hub(sources: Mapping[str, str], data: Mapping[str, str], metadata: Mapping[str, Any] | None = None) -> list[str]:
    """What a task asks the hub for: data that is not given, and a tokenizer that is no folder."""
    wanted = [hub_id for source, hub_id in sources.items() if given_for(source, hub_id, data) is None]
    named = (metadata or {}).get("tokenizer")
    return [*wanted, named] if named and not Path(named).expanduser().is_dir() else wanted


@contextmanager
def _having(name: str, wanted: list[str]) -> Iterator[None]:
    """Says that what is wanted of the hub cannot be had, in place of the hub client's many errors."""
    from models.assets import AssetUnavailable

    if not wanted:
        yield
        return
    try:
        with _hub_mode():
            yield
    except Exception as problem:
        from_hub = isinstance(problem, OSError) or type(problem).__module__.split(".")[0] in hub.CLIENT_PACKAGES
        if not from_hub:
            raise
        raise AssetUnavailable(f"the data of task {name!r} cannot be had: {one_line(problem)}") from problem


@contextmanager
def _in_place_of_hub(hub_id: str, given: str | None) -> Iterator[None]:
    """Has lm-eval's own tasks read `given` where they would ask the hub for `hub_id`: they have no setting for it."""
    import datasets

    if given is None:
        yield
        return
    original = datasets.load_dataset

    def load(path: str, name: str | None = None, **settings: Any) -> Any:
        return read_local(given, name) if path == hub_id else original(path, name, **settings)

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = original


@contextmanager
def _hub_mode() -> Iterator[None]:
    """Keeps to the local cache when the hub does not answer, instead of minutes of retries."""
    import datasets
    from huggingface_hub import constants

    asked_for = constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
    with nullcontext() if asked_for or _hub_answers() else hub.switched_off():
        yield


def _hub_answers() -> bool:
    """Whether the hub answers; silence is remembered for a while, as each cell on cached data would wait for it again."""
    if time.monotonic() - _silent_since[0] < SILENCE_LASTS:
        return False
    answers = hub.reachable()[0]
    if not answers:
        _silent_since[0] = time.monotonic()
    return answers
