"""The suites there are and what is in them, read from the task YAMLs themselves; a suite is a tag, or a group.

Nothing is kept in a list here: a YAML placed under `tasks/` with a tag is in that suite. A YAML with `group` is a suite of
lm-eval's own tasks: its `metadata: members:` says under which of lm-eval's folders each stands, so that the 11 s of reading
all of lm-eval's index are spared. Neither torch nor lm-eval is imported.

    python -c "from tasks.suites import suite_tasks; print([task.name for task in suite_tasks('recall-local')])"
"""

import importlib.util
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tasks import TASKS_PATH


@dataclass(frozen=True)
class TaskInfo:
    """What a task's YAML says of it."""

    name: str
    suite: str
    has_lengths: bool  # generated at an asked length
    default_lengths: tuple[int, ...]  # tokens; empty where has_lengths is False
    protocol: str
    version: str
    needs: tuple[str, ...]  # names of the assets whose data it reads
    least_length: int = 1  # tokens; below it the form cannot be built
    sources: tuple[tuple[str, str], ...] = ()  # the hub's data sets that it reads, any of them by length: (short name, hub id)
    cut: str | None = None  # the protocol's truncation policy; None: takes no other
    form: str | None = None  # of the recall tasks whose data is the hub's: a key of `tasks.hub_recall.forms`
    twice: bool = False  # its context stands twice
    takes_contexts: bool = False  # makes as many contexts as asked
    folder: str | None = None  # of one of lm-eval's own tasks: the folder under lm-eval's tasks, None where it is not there
    shots: int | None = None  # of one of lm-eval's own tasks: examples before each question; None: as the task says


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's YAML without importing what its tags name."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def suite_names() -> list[str]:
    """All suites."""
    return sorted({suite for _, suites in _tasks() for suite in suites} | {group["group"] for group in _groups()})


def suite_tasks(suite: str) -> list[TaskInfo]:
    """A suite's tasks by name; raises ValueError naming the nearest suite where there is none of that name."""
    found = [_info(config, suite) for config, suites in _tasks() if suite in suites]
    for group in _groups():
        if group["group"] == suite:
            found += [_member(suite, group["metadata"], name) for name in group["metadata"]["members"]]
    if not found:
        near = get_close_matches(suite, suite_names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no suite named {suite!r}{hint} (there are: {', '.join(suite_names())})")
    return sorted(found, key=lambda task: task.name)


@lru_cache(maxsize=1)
def _tasks() -> list[tuple[dict[str, Any], list[str]]]:
    tasks = []
    for path in sorted(TASKS_PATH.rglob("*.yaml")):
        config = _read(path)
        tags = config.get("tag") or []
        if "task" in config and tags:
            tasks.append((config, [tags] if isinstance(tags, str) else list(tags)))
    return tasks


@lru_cache(maxsize=1)
def _groups() -> list[dict[str, Any]]:
    configs = (_read(path) for path in sorted(TASKS_PATH.rglob("*.yaml")))
    return [config for config in configs if "group" in config]


@lru_cache(maxsize=256)
def own_task(name: str) -> TaskInfo | None:
    """What the suites say of one of lm-eval's own tasks; None for any other."""
    infos = (info for group in _groups() for info in suite_tasks(group["group"]))
    return next((info for info in infos if info.name == name), None)


def lm_eval_folder() -> Path:
    """Where lm-eval's own tasks stand, found without importing it."""
    return Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"


def _member(suite: str, metadata: dict[str, Any], name: str) -> TaskInfo:
    """One of lm-eval's own tasks in a group: version and data as lm-eval's YAML has them, unless the group's says more."""
    told = metadata["members"][name]
    folder = lm_eval_folder() / told["folder"]
    config = {"dataset_path": told["hub"]} if "hub" in told and folder.is_dir() else _lm_eval_config(folder, name)
    version = told.get("version", (config.get("metadata") or {}).get("version", ""))
    return TaskInfo(
        name=name,
        suite=suite,
        has_lengths=False,
        default_lengths=(),
        protocol=metadata["protocol"],
        version=str(version),
        needs=(),
        sources=((told.get("data", name), config["dataset_path"]),) if config else (),
        folder=told["folder"] if config else None,
        shots=told.get("shots"),
    )


def _lm_eval_config(folder: Path, name: str) -> dict[str, Any]:
    """The YAML of one of lm-eval's tasks; empty where another version of lm-eval has it elsewhere."""
    configs = (_read(path) for path in sorted(folder.glob("*.yaml")))
    return next((config for config in configs if config.get("task") == name), {})


def _read(path: Path) -> dict[str, Any]:
    """A YAML with what it includes, its own keys winning, as lm-eval reads it."""
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    included = config.pop("include", None) or []
    merged: dict[str, Any] = {}
    for name in [included] if isinstance(included, str) else included:
        merged.update(_read(path.parent / name))
    return {**merged, **config}


def _info(config: dict[str, Any], suite: str) -> TaskInfo:
    metadata = config.get("metadata") or {}
    lengths = tuple(metadata.get("lengths") or ())
    return TaskInfo(
        name=config["task"],
        suite=suite,
        has_lengths=bool(lengths),
        default_lengths=lengths,
        protocol=str(metadata.get("protocol", "")),
        version=str(metadata.get("version", "")),
        needs=tuple(metadata.get("needs") or ()),
        least_length=int(metadata.get("least_length", 1)),
        sources=tuple((metadata.get("sources") or {}).items()),
        cut=metadata.get("cut"),
        form=metadata.get("form"),
        twice=bool(metadata.get("twice")),
        takes_contexts="contexts" in metadata,
    )
