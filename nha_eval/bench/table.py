"""The tables that `bench op` prints: for each shape, dtype and phase a line an implementation and window, a column a length."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from nha_eval.bench.grid import PHASES
from nha_eval.bench.rows import OP, Table

WIDTH = 150  # columns, on a narrower terminal too: a wrapped line can be read, a cut-off figure cannot
FROM, TO = "32768", "131072"
SHORT = {"unavailable": "n/a"}


def figures(value: Any, digits: int = 3) -> str:
    """`digits` significant ones, thousands apart; nothing for nothing."""
    if value in ("", None):
        return ""
    number = float(value)
    if abs(number) < 1:
        return f"{number:.{digits}g}"
    return f"{number:,.{max(0, digits - len(str(int(abs(number)))))}f}"


def show(rows: list[dict[str, str]], console: Any = None) -> None:
    """Print the rows of a bench-op.csv (as `rows.read` gives them) to stdout."""
    from rich.console import Console

    console = console or Console(highlight=False)
    console.width = max(console.width, WIDTH)
    measured = [row for row in rows if row["phase"] != "ceiling"]
    for table in (*_phase_tables(measured), _decode_table(measured), _packed_table(measured)):
        if table is not None:
            console.print(table)
    print_ceilings(rows, OP, console)
    print_reasons(measured, OP, console)


def print_ceilings(rows: list[dict[str, str]], kind: Table, console: Any) -> None:
    """A line for each ceiling that was measured."""
    for row in rows:
        if row["phase"] == "ceiling":
            what = f"{figures(row['gbps'], 4)} GB/s" if row["gbps"] else f"{figures(row['tflops'], 4)} TFLOP/s"
            name = row[kind.key[0]]
            console.print(f"ceiling: {name} {what} ({row['note']}, {row['dtype']}, {row['device']})", markup=False)


def print_reasons(rows: list[dict[str, str]], kind: Table, console: Any) -> None:
    """A line for each reason why something is not there, with the phases in which it is not."""
    reasons = defaultdict(list)
    for row in rows:
        if row["status"] != "ok":
            reasons[(row[kind.key[0]], row["status"], row["reason"])].append(row)
    for (name, status, reason), those in reasons.items():
        where = " and ".join(dict.fromkeys(row["phase"] for row in those))
        console.print(f"{name}, {where}: {SHORT.get(status, status)}: {reason}", markup=False, soft_wrap=True)


def new_table(title: str, *columns: str):
    """An empty table whose first two columns stand to the left."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=True)
    return table


def _cell(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    return figures(row["latency_ms"]) if row["status"] == "ok" else SHORT.get(row["status"], row["status"])


def _name(row: dict[str, str]) -> tuple[str, str]:
    return row["implementation"] + (" (graph)" if row["graph"] == "True" else ""), row["window"]


def _phase_tables(rows: list[dict[str, str]]):
    """ms by length, growth, and the other figures at the longest length that was measured."""
    for shape, dtype in dict.fromkeys((row["shape"], row["dtype"]) for row in rows):
        for phase in PHASES[:2]:
            part = [row for row in rows if (row["shape"], row["dtype"], row["phase"]) == (shape, dtype, phase)]
            if not part:
                continue
            lengths = sorted({row["length"] for row in part}, key=int)
            growth = ["growth"] if {FROM, TO} <= set(lengths) else []
            columns = [f"{int(length):,}" for length in lengths]
            rest = ["at", "TFLOP/s", "GB/s", "roofline", "extra MiB"]
            note = f" (growth: {int(TO):,} over {int(FROM):,})" if growth else ""
            table = new_table(
                f"Shape {shape}, {dtype}, {phase}: median ms by length{note}",
                "implementation",
                "window",
                *columns,
                *growth,
                *rest,
            )
            order = list(dict.fromkeys(row["implementation"] for row in part))
            place = [(order.index(row["implementation"]), row["graph"], row["window"].rjust(9), _name(row)) for row in part]
            lines = {name: {} for *_, name in sorted(place)}
            for row in part:
                lines[_name(row)][row["length"]] = row
            for (name, window), found in lines.items():
                table.add_row(
                    *(name, window),
                    *(_cell(found.get(length)) for length in lengths),
                    *([_ratio(found.get(TO), found.get(FROM))] if growth else []),
                    *_rest([found[length] for length in lengths if length in found]),
                )
            yield table


def _rest(rows: list[dict[str, str]]) -> tuple[str, ...]:
    done = [row for row in rows if row["status"] == "ok"]
    if not done:
        return ("",) * 5
    last = done[-1]
    share = f"{100 * float(last['roofline_share']):.0f}%"
    memory = figures(last["peak_memory_mb"])
    return f"{int(last['length']):,}", figures(last["tflops"]), figures(last["gbps"]), share, memory


def _ratio(above: dict[str, str] | None, below: dict[str, str] | None) -> str:
    if above is None or below is None or not (above["latency_ms"] and below["latency_ms"]):
        return ""
    return f"{float(above['latency_ms']) / float(below['latency_ms']):.2f}"


def _decode_table(rows: list[dict[str, str]]):
    part = [row for row in rows if row["phase"] == "decode"]
    if not part:
        return None
    columns = ("shape", "dtype", "batch", "context", "us a step", "quartiles", "TFLOP/s", "GB/s", "roofline", "extra MiB")
    table = new_table("Decode: median microseconds of one step of all sequences", "implementation", "window", *columns)
    for row in part:
        where = (row["shape"], row["dtype"], row["batch"], f"{int(row['length']):,}")
        if row["status"] != "ok":
            table.add_row(*_name(row), *where, _cell(row), *[""] * 5)
            continue
        middle, low, high = (figures(1e3 * float(row[f"latency_ms{which}"])) for which in ("", "_p25", "_p75"))
        share = f"{100 * float(row['roofline_share']):.0f}%"
        memory = figures(row["peak_memory_mb"])
        table.add_row(*_name(row), *where, middle, f"{low}-{high}", figures(row["tflops"]), figures(row["gbps"]), share, memory)
    return table


def _packed_table(rows: list[dict[str, str]]):
    """Packed beside as many tokens in equal sequences."""
    part = [row for row in rows if row["phase"].endswith("packed")]
    if not part:
        return None
    table = new_table(
        "Packed sequences against equal ones, ms", "implementation", "window", "shape", "dtype", "phase", "tokens",
        "packed", "equal", "packed/equal",
    )  # fmt: skip
    same = ("implementation", "shape", "batch", "length", "window", "dtype", "graph")
    plain = {(row["phase"], *(row[column] for column in same)): row for row in rows}
    for row in part:
        phase = row["phase"].removesuffix(" packed")
        equal = plain.get((phase, *(row[column] for column in same)))
        tokens = f"{int(row['batch']) * int(row['length']):,}"
        about = (row["shape"], row["dtype"], phase, tokens)
        table.add_row(*_name(row), *about, _cell(row), _cell(equal), _ratio(row, equal))
    return table
