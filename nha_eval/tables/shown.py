"""A filled table as people read it: the published grid, a table for each model that was measured, notes, commands.

What came from run folders is made one printable line here; each format escapes it in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from nha_eval.comparison.folders import Setting
from nha_eval.plots._frames import clean_text
from nha_eval.report.tables import MISSING, Table
from nha_eval.tables.cells import NO_INTERVAL, NOT_COMPARABLE, NOT_REPRODUCED, REPRODUCED, Cell, Filled, digits
from nha_eval.tables.commands import PLACE, eval_commands, fill_command
from nha_eval.tables.spec import METRICS_BY_LENGTHS, Column, Model, PaperTable, size_text

NAME, REASON = 60, 240  # characters of what a run calls something
RULE = (
    "Reproduced: within the rounding of its last digit, the published figure lies in the 95% interval of the measured one. Of "
    "figures that do agree, one in twenty falls outside by chance; an interval of few documents is wide, and says little."
)


@dataclass
class Shown:
    """A table laid out; every text is one printable line."""

    name: str
    title: str
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    commands_say: str = ""  # what the commands are for


def lay_out(filled: Filled) -> Shown:
    """The table as people read it."""
    table = filled.table
    shown = Shown(table.name, table.spec.title, [_grid(table)])
    for model, setting in filled.columns.items():
        cells = [cell for cell in filled.cells if cell.model == model]
        shown.tables.append(_compared(cells, model, setting, filled))
    for setting, cells in filled.own.items():
        shown.tables.append(_own(cells, setting, filled))
    shown.notes = [clean_text(note) for note in (*_sources(table), *_of_metrics(table), *table.spec.notes, *_of_runs(filled))]
    _say_commands(shown, filled)
    return shown


def _grid(table: PaperTable) -> Table:
    columns = [column for column in table.columns if any(table.published(model.name, column) for model in table.models)]
    alike = len({model.about for model in table.models}) == 1
    if table.spec.layout == METRICS_BY_LENGTHS:
        model = table.models[0]
        lengths = list(dict.fromkeys(column.length for column in columns))
        names = list(dict.fromkeys(column.metric for column in columns))
        rows = [[name, *(_value(table, model, Column(name, length)) for length in lengths)] for name in names]
        return Table(f"Published: {model.name} ({model.about})", ["metric", *lengths], rows)
    size = [] if alike else ["size"]
    rows = [
        [model.name, *([] if alike else [model.about]), *(_value(table, model, column) for column in columns)]
        for model in table.models
    ]
    about = f" ({table.models[0].about})" if alike and table.models[0].about else ""
    return Table(f"Published{about}", ["model", *size, *map(str, columns)], rows, labels=1 + len(size))


def _value(table: PaperTable, model: Model, column: Column) -> str:
    found = table.published(model.name, column)
    return found.value if found else ""


def name_of(setting: Setting) -> str:
    """`my-nha at window 64`; the model alone where it has no window or none was measured."""
    windows = {"": "", "none": "", "full": " at full window", "own": ""}
    at = windows.get(setting.window, f" at window {clean_text(setting.window, NAME)}")
    return clean_text(setting.model, NAME) + at


def _size(filled: Filled, setting: Setting) -> str:
    size = filled.sizes.get(setting.model)
    return size_text(size) if size else "size not recorded"


def _compared(cells: list[Cell], model: Model, setting: Setting, filled: Filled) -> Table:
    rows = [
        [
            str(cell.column),
            cell.published.value if cell.published else "",
            *_figures(cell),
            MISSING if cell.difference is None else f"{cell.difference:+.{_places(cell)}f}",
            _count(cell),
            cell.verdict,
        ]
        for cell in cells
    ]
    said = f"said to be {model.name}" + (f" ({model.about})" if model.about else "")
    title = f"{model.name}, measured here: {name_of(setting)} ({_size(filled, setting)}), {said}"
    return Table(title, ["metric", "published", "measured here", "95% interval", "difference", "documents", "verdict"], rows)


def _own(cells: list[Cell], setting: Setting, filled: Filled) -> Table:
    rows = []
    for cell in cells:
        verdict = f"{cell.verdict}: {cell.reason}" if cell.verdict == NOT_COMPARABLE else cell.verdict
        rows.append([str(cell.column), *_figures(cell), _count(cell), verdict])
    title = f"Measured here, in no published column: {name_of(setting)} ({_size(filled, setting)}, own)"
    return Table(title, ["metric", "measured here", "95% interval", "documents", "verdict"], rows)


def _places(cell: Cell) -> int:
    return digits(cell.published.value) if cell.published else 2


def _figures(cell: Cell) -> tuple[str, str]:
    found = cell.measured
    if found.value is None:
        return MISSING, MISSING
    places = _places(cell)
    value = f"{found.value:,.{places}f}" if math.isfinite(found.value) else "infinite"
    if found.low is None or found.high is None:
        return value, "none"
    return value, f"{found.low:,.{places}f} to {found.high:,.{places}f}"


def _count(cell: Cell) -> str:
    return MISSING if cell.measured.n is None else f"{cell.measured.n:,}"


def _sources(table: PaperTable) -> Iterable[str]:
    """Where the figures are from; of several sources, which models are of which."""
    sources: dict[str, dict[str, None]] = {}
    remarks: dict[str, dict[str, None]] = {}
    for row in table.rows:
        sources.setdefault(row.source, {})[row.model] = None
        if row.note:
            remarks.setdefault(row.note, {})[f"{row.model}'s {Column(row.metric, row.length)}"] = None
    told = [source + (f" ({', '.join(models)})" if len(sources) > 1 else "") for source, models in sources.items()]
    yield f"Source: {'; '.join(told)}."
    for remark, where in remarks.items():
        yield f"{', '.join(where)}: {remark}."


def _of_metrics(table: PaperTable) -> Iterable[str]:
    lower = [name for name, metric in table.spec.metrics.items() if metric.unit == "perplexity"]
    if lower:
        yield f"{' and '.join(lower)}: lower is better."
    taken: dict[str, list[str]] = {}
    for name, metric in table.spec.metrics.items():
        if metric.note:
            taken.setdefault(metric.note, []).append(name)
        if metric.not_stated:
            yield f"{name} is not measured: {metric.not_stated}."
    for note, names in taken.items():
        yield f"{' and '.join(names)}: {note}."


def _of_runs(filled: Filled) -> Iterable[str]:
    compared = [cell for cell in filled.cells if cell.verdict in (REPRODUCED, NOT_REPRODUCED)]
    if compared:
        yield RULE
    if any(cell.verdict == NO_INTERVAL for cell in filled.cells):
        yield "Measured without an interval, a figure neither agrees nor disagrees: no verdict."
    for model, setting in filled.columns.items():
        yield (
            f"That {name_of(setting)} is {model.name} as published, its training above all, is the word of whoever gave "
            "--column; " + ("its size was checked." if setting.model in filled.sizes else "its size is not recorded.")
        )
    for name, limit in filled.limited.items():
        yield f"{clean_text(name, NAME)} was asked the first {limit:,} documents of a task at most, not all."
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for cell in (*filled.cells, *(cell for cells in filled.own.values() for cell in cells)):
        stated = filled.table.spec.metrics[cell.column.metric].not_stated
        if cell.setting and cell.measured.value is None and cell.reason and not stated:
            told = f"{cell.verdict} ({status})" if (status := cell.measured.status) not in ("", cell.verdict) else cell.verdict
            why = name_of(cell.setting), f"{told}, {clean_text(cell.reason, REASON)}"
            reasons.setdefault(why, {}).setdefault(cell.column.metric, []).append(cell.column.length)
    for (name, why), metrics in reasons.items():
        columns = (metric + (f" ({', '.join(lengths)})" if any(lengths) else "") for metric, lengths in metrics.items())
        yield f"{name} on {', '.join(columns)}: {why}."


def _say_commands(shown: Shown, filled: Filled) -> None:
    table = filled.table
    waiting = [cell for cell in filled.cells if cell.published and cell.measured.value is None]
    count = sum(1 for cell in filled.cells if cell.published)
    columns = list(dict.fromkeys(cell.column for cell in waiting if cell.command))
    if not columns:
        return
    models = list(dict.fromkeys(cell.model for cell in waiting if cell.command))
    model = next((model for model in models if model.name == "NHA"), models[0])
    shown.commands = [fill_command(table, model.name), *eval_commands(table, columns)]
    about = f" ({model.about})" if model.about else ""
    never = sum(1 for cell in waiting if not cell.command)
    left = f"{len(waiting)} of {count} published figures" + (f", {never} of which cannot be" if never else "")
    shown.commands_say = (
        f"Not measured: {left}. The first command measures those of {model.name}, with a "
        f"checkpoint of it{about} in the place of {PLACE}; the others do so suite by suite, for `tables {table.name} --run`:"
    )
