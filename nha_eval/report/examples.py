"""Documents side by side: what a setting gets wrong that its reference got right, what it gains, and what neither can do.

A document counts where both sides were asked the same prompt and each answer is right or wrong. Of the many some are shown: of
each pair of settings a few of every kind, taken from its tasks in turn and in the documents' order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from nha_eval.comparison.choose import Pair
from nha_eval.comparison.folders import ScoredTask
from nha_eval.errors import UserError
from nha_eval.plots._frames import clean_text
from nha_eval.plots._settings import setting_label

from .tables import MISSING, Table, count

LOST, GAINED, BOTH_WRONG, BOTH_RIGHT = "lost", "gained", "both wrong", "both right"
SHOWN = {LOST: 12, GAINED: 6, BOTH_WRONG: 3}  # of a pair of settings
MOST_ROWS = 240
MOST_CHARACTERS = 240  # of a text

TEXT = (
    "Lost: the reference answers right and the setting wrong; gained: the other way round. Some of each are below, from all "
    "tasks in turn. Of a long prompt its end is shown."
)


@dataclass(frozen=True)
class Example:
    """One document of a pair of settings; `a` is the setting's record of it and `b` its reference's."""

    pair: Pair
    task: ScoredTask
    finding: str
    a: dict[str, Any]
    b: dict[str, Any]


def find_examples(pairs: list[Pair]) -> dict[int, dict[str, list[list[Example]]]]:
    """Of each pair by its place: kind -> the examples of each task, in the documents' order. Pairs of joined runs that are
    about the same two settings go together."""
    first: dict[tuple, int] = {}
    found: dict[int, dict[str, list[list[Example]]]] = {}
    for place, pair in enumerate(pairs):
        place = first.setdefault(tuple(side.setting for side in pair), place)
        kinds = found.setdefault(place, {kind: [] for kind in (*SHOWN, BOTH_RIGHT)})
        left, right = (side.run.tasks[side.setting] for side in pair)
        for key in (key for key in left if key in right):
            own: dict[str, list[Example]] = {kind: [] for kind in kinds}
            for example in _of_task(pair, left[key], right[key]):
                own[example.finding].append(example)
            for kind, examples in own.items():
                kinds[kind].append(examples)
    return found


def _of_task(pair: Pair, left: ScoredTask, right: ScoredTask) -> Iterator[Example]:
    if any(task.record.get("status") != "ok" for task in (left, right)):
        return
    try:
        a, b = left.documents(), right.documents()
    except UserError:
        return
    for number, record in a.items():
        other = b.get(number)
        if other is None or record.get("prompt_hash") != other.get("prompt_hash"):
            continue
        answers = record.get("correct"), other.get("correct")
        if all(answer in (0, 1) for answer in answers):
            finding = {(0, 1): LOST, (1, 0): GAINED, (0, 0): BOTH_WRONG, (1, 1): BOTH_RIGHT}[tuple(map(int, answers))]
            yield Example(pair, left, finding, record, other)


def count_table(found: dict[int, dict[str, list[list[Example]]]], pairs: list[Pair]) -> Table | None:
    """A row a pair of settings: how many documents of each kind; None where there are none."""
    rows = []
    for place, kinds in found.items():
        sums = [sum(map(len, kinds[kind])) for kind in (LOST, GAINED, BOTH_RIGHT, BOTH_WRONG)]
        if sum(sums):
            rows.append([*_sides(pairs[place]), *map(count, sums), count(sum(sums))])
    columns = ["setting", "reference", LOST, GAINED, BOTH_RIGHT, BOTH_WRONG, "documents"]
    return Table("Documents lost and gained", columns, rows, labels=2) if rows else None


def example_table(found: dict[int, dict[str, list[list[Example]]]]) -> Table | None:
    """A row an example; None where nothing was lost, gained or failed."""
    chosen = [_choose(kinds) for kinds in found.values()]
    # Pairs in turn, so that the last of many is not left without any.
    rows = [_row(one) for turn in zip_longest(*chosen) for one in turn if one is not None]
    shown = rows[:MOST_ROWS]
    shown.sort(key=lambda row: (row[1], list(SHOWN).index(row[0])))
    columns = ["finding", "setting against reference", "task", "asked", "right answer"]
    columns += ["reference's", "setting's", "tokens back"]
    return Table("Examples side by side", columns, shown, labels=3, words=frozenset(range(3, 7))) if rows else None


def _choose(kinds: dict[str, list[list[Example]]]) -> list[Example]:
    found = []
    for kind, most in SHOWN.items():
        in_turn = [one for turn in zip_longest(*kinds[kind]) for one in turn if one is not None]
        found += in_turn[:most]
    return found


def _sides(pair: Pair) -> list[str]:
    return [setting_label((clean_text(side.setting.model), clean_text(side.setting.window)), 60) for side in pair]


def _row(one: Example) -> list[str]:
    length, distance = one.task.cell.get("length"), one.a.get("distance")
    task = clean_text(one.task.cell.get("task"), 60) + (f", {length:,} tokens" if isinstance(length, int) else "")
    answers = [_answer(one.a, one.a.get("gold")), *(_answer(record, record.get("prediction")) for record in (one.b, one.a))]
    place = count(distance) if isinstance(distance, int) else MISSING
    return [one.finding, " against ".join(_sides(one.pair)), task, _asked(one.a.get("asked")), *answers, place]


def _asked(text: object) -> str:
    """The end of a prompt, in words that are whole."""
    if not isinstance(text, str) or not text.strip():
        return MISSING
    line = clean_text(text)
    if len(line) <= MOST_CHARACTERS:
        return line
    return f"…{line[-MOST_CHARACTERS:].split(' ', 1)[-1]}"


def _answer(record: dict[str, Any], answer: Any) -> str:
    """An answer in words: a choice by its text, where the record has it."""
    choices = record.get("choices")
    texts = []
    for one in answer if isinstance(answer, list) else [answer]:
        if isinstance(one, int) and not isinstance(one, bool):
            known = isinstance(choices, list) and 0 <= one < len(choices)
            one = choices[one] if known else f"choice {one + 1}"
        texts.append(clean_text(MISSING if one is None else one, MOST_CHARACTERS) or "(nothing)")
    return clean_text(" / ".join(texts), MOST_CHARACTERS) if texts else MISSING
