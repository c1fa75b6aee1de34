"""The tables that `bench model` prints: for each size, dtype and phase a line a model and window, a column a length; beside
each figure how many times better it is than `transformer++`, or without that than the first model with full windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

from rich.markup import escape

from nha_eval.bench.crossover import base_of, crossover
from nha_eval.bench.model_grid import LARGEST, LONGEST, work_of
from nha_eval.bench.rows import MODEL
from nha_eval.bench.table import SHORT, figures, new_table, print_ceilings, print_reasons

Row = dict[str, str]
Line = dict[str, Row]  # by length asked
WIDTH = 200  # columns, on a narrower terminal too: a wrapped line can be read, a cut-off figure cannot
NAME = 48  # characters of a model's name
TITLES = {
    "prefill": "prefill",
    "prefill-graph": "prefill as a CUDA graph",
    "decode": "decoding a token",
    "train": "training step",
    "train-graph": "training step as a CUDA graph",
}


def show(rows: list[Row], console: Any = None) -> None:
    """Print the rows of a bench-model.csv (as `rows.read` gives them) to stdout."""
    from rich.console import Console

    console = console or Console(highlight=False)
    console.width = max(console.width, WIDTH)
    measured = [row for row in rows if row["phase"] in TITLES]
    products = {row["dtype"]: row["tflops"] for row in rows if row["phase"] == "ceiling" and row["tflops"]}
    for title, table in _tables(measured, products):
        # Not the table's own title, which would be broken at its width.
        console.print(title, style="bold", markup=False, soft_wrap=True)
        console.print(table)
    print_ceilings(rows, MODEL, console)
    print_reasons(measured, MODEL, console)


def _tables(rows: list[Row], products: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """(title, table) of every phase, batch and way of training; products: TFLOP/s of the matrix product, by dtype."""
    for (size, dtype), phase, batch, again in dict.fromkeys(map(_group, rows)):
        base = base_of((row["model"], row["window"]) for row in rows if (row["size"], row["dtype"]) == (size, dtype))
        part = [row for row in rows if _group(row) == ((size, dtype), phase, batch, again)]
        # The reasons, below the tables, name those that could not be had.
        had = {row["model"] for row in part if row["status"] != "unavailable"}
        part = [row for row in part if row["model"] in had]
        if not part:
            continue
        where = f"{size}, {dtype}, {TITLES[phase]}, batch {batch}{', activations made again' if again == 'True' else ''}"
        if batch == LARGEST:
            what = f"tokens/s with the largest batch that fits (its size){_beside(', and times those of', base)}"
            yield f"{where}: {what}", _table(part, base, _throughput, _times("tokens_per_s", more=True))
            continue
        yield (
            f"{where}: median ms{_beside(', and times faster than', base)}",
            _table(part, base, _ms, _times("latency_ms"), timed=True),
        )
        if work_of(phase) == "train":
            what = "tokens/s, and what the step needs as a share of the matrix product's FLOP/s"
            yield f"{where}: {what}", _table(part, base, partial(_speed, products), lambda row, beside: "")
        if phase != "decode":
            yield (
                f"{where}: peak memory in MiB{_beside(', and times less than', base)}",
                _table(part, base, _peak, _times("peak_memory_mb")),
            )
        else:
            yield (
                f"{where}: state in MiB{_beside(', and times less than', base)}",
                _table(part, base, _state, _times("state_bytes_held")),
            )


def _beside(what: str, base: str | None) -> str:
    return "" if base is None else f"{what} {_short(base)}"


def _short(model: str) -> str:
    """A model's name; of a long path its end."""
    return model if len(model) <= NAME else f"...{model[3 - NAME :]}"


def _group(row: Row) -> tuple[tuple[str, str], str, str, str]:
    return (row["size"], row["dtype"]), row["phase"], row["batch_asked"], row["checkpointing"]


def _lines(rows: list[Row]) -> dict[tuple[str, str], Line]:
    """By (model, window): models as they come, windows ascending."""
    order = list(dict.fromkeys(row["model"] for row in rows))
    ordered = sorted(rows, key=lambda row: (order.index(row["model"]), _window_order(row["window"])))
    grouped = groupby(ordered, key=lambda row: (row["model"], row["window"]))
    return {name: {row["length_asked"]: row for row in those} for name, those in grouped}


def _window_order(window: str) -> tuple[int, int, str]:
    return (0, int(window), "") if window.isdecimal() else (1, 0, window)


def _table(
    rows: list[Row], base: str | None, cell: Callable[[Row], str], times: Callable[[Row, Row], str], timed: bool = False
):
    lengths = sorted({row["length_asked"] for row in rows if row["length_asked"] != LONGEST}, key=int)
    longest = any(row["length_asked"] == LONGEST for row in rows)
    decoding = timed and any(row["floor_share"] for row in rows)
    more = [*(["faster from"] if timed else []), *(["weights' share"] if decoding else []), *(["cold ms"] if timed else [])]
    columns = [f"{int(length):,}" for length in lengths] + (["longest"] if timed and longest else [])
    table = new_table("", "model", "window", *columns, *more)
    lines = _lines(rows)
    compared = next((line for (model, _), line in lines.items() if model == base), {})
    for (model, window), line in lines.items():
        beside = {} if model == base else compared
        cells = [_with_times(line.get(length), beside.get(length), cell, times) for length in lengths]
        if timed and longest:
            cells.append(_longest(line.get(LONGEST)))
        if timed:
            cells.append(str(crossover(_latencies(line), _latencies(beside)) or ""))
        done = [line[length] for length in lengths if length in line and line[length]["status"] == "ok"]
        if decoding:
            cells.append(f"{100 * float(done[-1]['floor_share']):.0f}%" if done else "")
        if timed:
            cells.append(figures(done[0]["cold_start_ms"]) if done else "")
        if any(cells):
            table.add_row(escape(_short(model)), escape(window), *cells)
    return table


def _with_times(row: Row | None, base: Row | None, cell: Callable[[Row], str], times: Callable[[Row, Row], str]) -> str:
    if row is None:
        return ""
    if row["status"] != "ok":
        return SHORT.get(row["status"], row["status"])
    ratio = times(row, base) if base and base["status"] == "ok" else ""
    return f"{cell(row)} {ratio}".strip()


def _times(column: str, more: bool = False) -> Callable[[Row, Row], str]:
    """How many times better than the base a row is, more or less of `column` being better."""

    def times(row: Row, base: Row) -> str:
        own, other = (float(found[column] or 0) for found in (row, base))
        if not (own and other):
            return ""
        return f"{figures(own / other if more else other / own)}x"

    return times


def _ms(row: Row) -> str:
    return figures(row["latency_ms"])


def _throughput(row: Row) -> str:
    return f"{figures(row['tokens_per_s'])} ({int(row['batch']):,})"


def _speed(products: dict[str, str], row: Row) -> str:
    best = float(products.get(row["dtype"]) or 0)
    share = f" ({100 * float(row['tflops']) / best:.0f}%)" if row["tflops"] and best else ""
    return f"{figures(row['tokens_per_s'])}{share}"


def _peak(row: Row) -> str:
    return figures(row["peak_memory_mb"])


def _state(row: Row) -> str:
    return figures(float(row["state_bytes_held"]) / 2**20)


def _longest(row: Row | None) -> str:
    if row is None or row["status"] != "ok":
        return "" if row is None else SHORT.get(row["status"], row["status"])
    bound = ">= " if "no longer one" in row["note"] else ""
    return f"{bound}{int(row['length']):,}"


def _latencies(line: Line) -> dict[int, float]:
    """Milliseconds by length, of lengths that were asked for."""
    return {int(at): float(row["latency_ms"]) for at, row in line.items() if at != LONGEST and row["status"] == "ok"}
