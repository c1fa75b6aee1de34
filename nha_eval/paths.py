"""Paths as users give them: `~` opened, and what no file system can have refused in one line.

user_path("~/runs/first", "--out")
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nha_eval.errors import UserError


def user_path(given: str | Path, what: str, advice: str = "give another path") -> Path:
    """The path that `given` stands for, there or not; `what` names it in messages.

    Raises UserError, with the `advice`, where it is empty, names an unknown user's home, is too long, holds a character that no
    name can have, or may not be looked at.
    """
    text = str(given)
    if not text.strip():
        raise UserError(f"{what} is empty: {advice}")
    try:
        path = Path(text).expanduser()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as problem:
        raise UserError(f"{what} {text!r}: {problem.strerror or problem}: {advice}") from problem
    except RuntimeError as problem:
        raise UserError(f"{what} {text!r}: nobody of that name has a home folder here: {advice}") from problem
    except ValueError as problem:
        # A NUL character, or half of a surrogate pair.
        raise UserError(f"{what} {text!r}: it holds a character that no file's name can have: {advice}") from problem
    return path


def make_writable(folder: Path) -> None:
    """Make the folder where it is missing, and try it. Raises OSError where nothing can be written into it."""
    standing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    # A superuser may write anywhere; a folder marked read-only for everybody is meant that way all the same.
    if not standing.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(13, "marked read-only", str(standing))
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"nha")
    finally:
        probe.unlink(missing_ok=True)
