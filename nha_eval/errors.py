"""What can end a command, and with which exit code.

Exit codes: 0 done, 1 the machine stopped it, 2 wrong input, 3 done but some data could not be had, 130 interrupted. A
user's mistake is one line on stderr that says what was given, what is wanted and what to do; tracebacks are for this
project's own mistakes.
"""

import difflib
import errno
import unicodedata
from collections.abc import Iterable

DONE, MACHINE, WRONG_INPUT, DATA_MISSING, INTERRUPTED = 0, 1, 2, 3, 130

# Out of space, over quota, device error, or a file system gone read-only under a run: no retry inside the run mends it.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class UserError(ValueError):
    """Wrong input; the message is the one line that the user sees."""

    exit_code = WRONG_INPUT


class MachineError(RuntimeError):
    """The machine, not the input, stopped the command: a full disk, workers that keep dying."""

    exit_code = MACHINE


def nearest(given: str, known: Iterable[str], *, what: str = "known") -> str:
    """`did you mean 'a' or 'b'?` for near misses, else the first known names: a half sentence for an error message."""
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    shown = ", ".join(known[:8])
    return f"{what}: {shown}{', ...' if len(known) > 8 else ''}" if known else f"{what}: none"


def printable(text: object, limit: int = 0) -> str:
    """One line of `text` that a terminal can be given: controls, direction marks and halves of surrogate pairs as escapes, and
    what is beyond `limit` characters (0: none) cut out of the middle, as a message begins with what was given and ends with
    what to do.
    """
    shown = "".join(
        repr(character)[1:-1] if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else character
        for character in " ".join(str(text).split())
    )
    if limit and len(shown) > limit:
        tail = limit // 3
        shown = f"{shown[: limit - tail - 1]}…{shown[-tail:]}"
    return shown


def shown(value: object) -> str:
    """What was given, short enough to stand inside a message."""
    return printable(repr(value), 120)


def one_line(problem: BaseException | str, limit: int = 300) -> str:
    """The problem on one line of at most `limit` characters, the exception's type first unless its message stands
    alone.
    """
    text = " ".join(str(problem).split())
    if isinstance(problem, BaseException) and not isinstance(problem, UserError | MachineError):
        text = f"{type(problem).__name__}: {text}" if text else type(problem).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_disk_trouble(problem: BaseException) -> bool:
    """Whether the exception, or what caused it, says that the disk is full or gone."""
    seen = problem
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def is_out_of_memory(problem: BaseException) -> bool:
    """Python's MemoryError, torch's out-of-memory errors on any device, or a native allocation that failed."""
    text = str(problem).lower()
    # By name, as this module imports no torch.
    kind = type(problem).__name__
    if isinstance(problem, MemoryError) or kind == "OutOfMemoryError" or (kind == "AcceleratorError" and "memory" in text):
        return True
    signs = ("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc", "not enough memory")
    return isinstance(problem, RuntimeError | OSError) and any(sign in text for sign in signs)
