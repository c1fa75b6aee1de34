"""Bars and notes of what takes time while text is made ready. All of it goes to stderr, and bars to terminals alone."""

from __future__ import annotations

import sys

from nha_eval.errors import printable


class Bar:
    """A progress bar over `total` units, shown where stderr is a terminal.

    with Bar("tokens", 1000) as bar: bar.advance(10)
    """

    def __init__(self, what: str, total: float | None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(what, total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def advance(self, units: float = 1, what: str | None = None) -> None:
        """Count `units` as done; `what` is what comes next."""
        self._progress.update(self._task, advance=units, description=what)


def note(text: str) -> None:
    """A line of its own."""
    print(printable(text), file=sys.stderr)
