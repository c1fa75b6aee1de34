"""The commands that measure a column, as they can be pasted into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from nha_eval.tables.spec import Column, PaperTable

PLACE = "CHECKPOINT"  # stands for what the reader has


def eval_commands(table: PaperTable, columns: Iterable[Column], model: str = PLACE) -> list[str]:
    """The fewest `eval` commands that measure these columns: one for the tasks of a suite at the same lengths."""
    lengths: dict[tuple[str, str], list[int]] = {}
    for column in columns:
        for _, how, tokens in table.measures(column):
            found = lengths.setdefault((how.suite, how.task), [])
            if tokens is not None and tokens not in found:
                found.append(tokens)
    commands: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (suite, task), asked in lengths.items():
        commands.setdefault((suite, tuple(sorted(asked))), []).append(task)
    return [_command(model, suite, tasks, asked) for (suite, asked), tasks in commands.items()]


def _command(model: str, suite: str, tasks: list[str], lengths: tuple[int, ...]) -> str:
    words = ["nha-eval", "eval", "--model", model, "--suite", suite]
    for task in tasks:
        words += ["--task", task]
    if lengths:
        words += ["--length", ",".join(map(str, lengths))]
    return shlex.join([*words, "--no-costs"])


def fill_command(table: PaperTable, column: str, model: str = PLACE) -> str:
    """The `tables` command that measures all of a table and sets it beside the published `column`."""
    return shlex.join(["nha-eval", "tables", table.name, "--model", model, "--column", f"{column}={model}"])
