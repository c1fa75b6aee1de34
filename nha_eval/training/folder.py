"""The folder of a training: one at a time works in it, or one launch, on one spec.

with training_folder(Path("results/runs/hybridize-x"), settings, "--out"):
    ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from nha_eval import yamls
from nha_eval.errors import UserError
from nha_eval.journal import write_atomic
from nha_eval.paths import make_writable
from nha_eval.ranks import is_first, wait_until
from nha_eval.spec_verbs import verb_of

_POLL = 0.2  # seconds


@contextmanager
def training_folder(path: Path, settings: dict[str, Any], flag: str = "--out") -> Iterator[Path]:
    """Locks the folder, made where it is missing, and keeps the settings in its spec.yaml. Of several processes of one launch
    the first does so, and the others wait for it.

    Raises UserError where it cannot be written, another run works in it, or it holds a training of other settings; other
    settings with which nothing was begun yet are replaced. MachineError where the launcher is gone.
    """
    if not is_first():
        # Where the first is refused the folder, the launcher ends this one.
        wanted = _as_kept(settings)[1]
        wait_until(lambda: _kept(path / "spec.yaml") == wanted, f"{path} was ready", _POLL)
        yield path
        return
    try:
        make_writable(path)
    except OSError as problem:
        raise UserError(
            f"cannot write into {path}: {problem.strerror or problem}; give a folder that can be written with {flag}"
        ) from problem
    lock = FileLock(path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as problem:
        raise UserError(f"another run is working in {path}: wait for it, or give another folder with {flag}") from problem
    try:
        _check_settings(path, settings, flag)
        yield path
    finally:
        lock.release()


def _as_kept(settings: dict[str, Any]) -> tuple[str, Any]:
    """As spec.yaml holds them: its text, and what is read from it again."""
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return text, yaml.safe_load(text)


def _kept(file: Path) -> Any:
    try:
        return yamls.read(file)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _check_settings(path: Path, settings: dict[str, Any], flag: str) -> None:
    file = path / "spec.yaml"
    text, wanted = _as_kept(settings)
    there = _kept(file)
    if there == wanted:
        return
    untouched = {entry.name for entry in path.iterdir()} <= {".lock", "spec.yaml"}
    if not isinstance(there, dict) or untouched:
        if any(entry.is_dir() for entry in path.iterdir()):
            raise UserError(f"{path} holds something else than a training (no spec.yaml): give another folder with {flag}")
        write_atomic(file, text)
        return
    if verb_of(there) != verb_of(wanted):
        raise UserError(f"{path} holds a run of `{verb_of(there) or 'another verb'}`: give another folder with {flag}")
    differs = [key for key in {**wanted, **there} if there.get(key) != wanted.get(key)]
    raise UserError(
        f"{path} holds a training of another spec (differs in: {', '.join(differs)}): give another folder with {flag}, or "
        "remove that one"
    )
