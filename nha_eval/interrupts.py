"""Ctrl-C and SIGTERM end a command the same way: at once, tidily, with a word on how to go on."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Interrupted(BaseException):
    """The user, or the system by SIGTERM, wants the command to end now; the message is the signal's name.

    Not a KeyboardInterrupt: libraries on the way (typer among them) swallow those.
    """


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted inside, even where a shell started the process with SIGINT ignored."""

    def stop(number: int, frame: Any) -> None:
        # One is enough: a second one must not break the tidying up.
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
