"""The suites there are and what is in them, read from the task YAMLs themselves; a suite is a tag.

Nothing is kept in a list here: a YAML placed under `tasks/` with a tag is in that suite. Neither torch nor lm-eval is needed.

    python -c "from tasks.suites import suite_tasks; print([task.name for task in suite_tasks('recall-local')])"
"""

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


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's YAML without importing what its tags name."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def suite_names() -> list[str]:
    """All suites."""
    return sorted({suite for _, suites in _tasks() for suite in suites})


def suite_tasks(suite: str) -> list[TaskInfo]:
    """A suite's tasks by name; raises ValueError naming the nearest suite where there is none of that name."""
    found = [_info(config, suite) for config, suites in _tasks() if suite in suites]
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
    )
