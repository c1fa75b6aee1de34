"""The table that `bench harness` prints: for each phase and task a line a side, and what the two are to each other."""

from __future__ import annotations

import statistics
from typing import Any

from nha_eval.bench.rows import HARNESS
from nha_eval.bench.table import WIDTH, new_table, print_reasons
from nha_eval.bench.timing import quartiles

Row = dict[str, str]
GOAL = 1.05  # of plain lm_eval's time
_GROUP = ("phase", "task", "limit", "windows", "batch", "dtype", "device", "threads")


def show(rows: list[Row], console: Any = None) -> None:
    """Print the rows of a bench-harness.csv (as `rows.read` gives them) to stdout."""
    from rich.console import Console

    console = console or Console(highlight=False)
    console.width = max(console.width, WIDTH)
    table = new_table(
        "Seconds: medians and quartiles", "phase", "task", "documents", "side", "median", "quartiles", "processor", "runs"
    )
    said = []
    ok = [row for row in rows if row["status"] == "ok"]
    groups: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in ok:
        groups.setdefault(_key(row), {}).setdefault(row["side"], []).append(row)
    for key, by_side in groups.items():
        for side, own in by_side.items():
            low, middle, high = quartiles([float(row["seconds"]) for row in own])
            phase = f"{key[0]} of {key[3].count(' ') + 1} windows" if key[0] == "sweep" else key[0]
            used = statistics.median(float(row["processor_s"]) for row in own)
            texts = f"{middle:.1f}", f"{low:.1f} to {high:.1f}", f"{used:.1f}", str(len(own))
            table.add_row(phase, key[1], key[2], side, *texts)
        if sentence := verdict(key[0], by_side):
            said.append(f"{key[0]}, {key[1]}: {sentence}")
    console.print(table)
    for sentence in said:
        console.print(sentence, markup=False, soft_wrap=True)
    print_reasons(rows, HARNESS, console)


def verdict(phase: str, by_side: dict[str, list[Row]]) -> str:
    """What one side is to the other, as the ratio of each pair that ran in turn; empty while one of them is missing."""
    first, second = ("separate runs", "one run") if phase == "sweep" else ("lm_eval", "harness")
    seconds = [{row["repeat"]: row for row in by_side.get(side, [])} for side in (first, second)]
    pairs = [(seconds[0][repeat], seconds[1][repeat]) for repeat in seconds[0] if repeat in seconds[1]]
    if not pairs:
        return ""
    (low, middle, high), (_, used, _) = (
        quartiles([float(two[name]) / float(one[name]) for one, two in pairs]) for name in ("seconds", "processor_s")
    )
    told = f"{second} takes {middle:.3f} of what {first} take{'' if phase == 'sweep' else 's'} ({low:.3f} to {high:.3f})"
    told += f", and {used:.3f} of the processor's time"
    if phase != "sweep":
        return f"{told}; wanted is at most {GOAL}: {'met' if middle <= GOAL else 'missed'}"
    saved = statistics.median(float(one["seconds"]) - float(two["seconds"]) for one, two in pairs)
    started = statistics.median(_starts(one) for one, _ in pairs)
    count = pairs[0][0]["windows"].count(" ") + 1
    wanted = started * (count - 1) / count
    met = "met" if saved >= wanted else "missed"
    return f"{told}: {saved:.1f} s saved; starting and loading {count - 1} times less is worth {wanted:.1f} s: {met}"


def _starts(row: Row) -> float:
    """Seconds of a row's processes outside their cells: start, loading, tables, report."""
    return float(row["seconds"]) - float(row["scoring_s"])


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in _GROUP)
