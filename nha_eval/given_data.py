"""Data that the user has in place of the hub's: `--data fda=fda.jsonl`, looked over before anything runs.

A name is a data set's short one, as `docs/TASKS.md` and `list` show them, or its hub id. Its content goes into the cells'
ids, so that a score of other data is never taken for this one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nha_eval.errors import UserError, nearest
from nha_eval.paths import user_path
from tasks.hub_data import names_of, read_local
from tasks.ruler import material


@dataclass(frozen=True)
class GivenData:
    """A local folder or file: `path` as a worker finds it from anywhere, `digest` of what is in it."""

    name: str
    path: str
    digest: str


def look_over(datasets: dict[str, str], tasks: Iterable[Any], known: Iterable[Any]) -> dict[str, GivenData]:
    """The given data by name, as the tasks at hand will read it.

    `known` are all tasks there are. Raises UserError for a name that none of them reads, a path that is not there, or
    documents that `tasks` cannot read.
    """
    if not datasets:
        return {}
    known = list(known)
    names = {name for task in known for source in task.sources for name in names_of(*source)}
    for name, path in datasets.items():
        if name not in names:
            raise UserError(f"--data {name}={path}: no task reads data named {name!r}; {nearest(name, sorted(names))}")
    sources = {name: source for task in known for source, hub_id in task.sources for name in names_of(source, hub_id)}
    found = {
        name: _look_over(name, path, sources[name], [task for task in tasks if _reads(task, name)])
        for name, path in datasets.items()
    }
    for name in found:
        if not any(_reads(task, name) for task in tasks):
            print(f"note: none of the tasks asked for reads {name}; --data {name}=... is not used", file=sys.stderr)
    return found


def of_task(task: Any, given: Mapping[str, GivenData]) -> tuple[GivenData, ...]:
    """Those that the task reads."""
    return tuple(data for name, data in given.items() if _reads(task, name))


def _reads(task: Any, name: str) -> bool:
    return any(name in names_of(*source) for source in task.sources)


def _look_over(name: str, path: str, source: str, tasks: list[Any]) -> GivenData:
    from tasks.hub_recall import SPLIT, check_fields

    place = user_path(path, f"--data {name}").absolute()
    try:
        if source in material.READERS:
            material.read(source, place)
            return GivenData(name, str(place), digest_of(place))
        found = read_local(place)
        shown = next((task for task in tasks if task.shots), None)
        if shown is not None and place.is_file():
            raise ValueError(f"{shown.name} shows {shown.shots} examples of another split: give a folder with a file a split")
        # The schemas of lm-eval's own tasks are known to lm-eval alone.
        for task in (task for task in tasks if task.form):
            if SPLIT not in found:
                raise ValueError(f"it has no split {SPLIT!r}, only {', '.join(found)}: name a file {SPLIT}.jsonl")
            check_fields(task.form, found[SPLIT].column_names, twice=task.twice)
    except ValueError as problem:
        raise UserError(f"--data {name}={path}: {problem}") from problem
    return GivenData(name, str(place), digest_of(place))


def digest_of(place: Path) -> str:
    """Of the names and contents of all its files but hidden ones, such as a clone's history."""
    digest = hashlib.sha256()
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(place).parts):
            digest.update(str(file.relative_to(place)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
