"""Published beside measured: a cell each, with the verdict on whether the one was reproduced by the other.

A published figure is reproduced where, within the rounding of its last digit, it lies in the 95% interval of the measured one.
A verdict is given only to a model that is said to be the published one, with `--column`; any other stands beside the tables,
on lines of its own, and is not compared with them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nha_eval.comparison.folders import Setting
from nha_eval.errors import UserError, nearest
from nha_eval.tables.commands import eval_commands
from nha_eval.tables.measured import UNAVAILABLE, Figure, MeasuredRun, figure, find_setting, parameters_of
from nha_eval.tables.spec import Column, Model, PaperTable, Published, size_in, size_text

REPRODUCED, NOT_REPRODUCED, NOT_MEASURED = "reproduced", "not reproduced", "not measured"
NO_INTERVAL, NOTHING_PUBLISHED, NOT_COMPARABLE = "measured, no interval", "nothing published", "not comparable"
# Names of sizes are round: a 1.3B model has 1.2 to 1.5 thousand million parameters.
ALIKE = 1.25


@dataclass(frozen=True)
class Cell:
    """One cell of a table. `model` is the published one, or None where `setting` stands by itself."""

    table: PaperTable
    column: Column
    model: Model | None
    published: Published | None
    setting: Setting | None
    measured: Figure
    verdict: str
    reason: str = ""
    command: str = ""  # measures it; empty where it is measured, or cannot be

    @property
    def difference(self) -> float | None:
        """Measured less published, in the published unit."""
        both = self.published and self.measured.value is not None and self.model
        return self.measured.value - float(self.published.value) if both else None


@dataclass
class Filled:
    """A table with all its cells, and what stands beside it."""

    table: PaperTable
    cells: list[Cell]
    columns: dict[Model, Setting]  # published model -> what is said to be it
    own: dict[Setting, list[Cell]]
    sizes: dict[str, float]  # model of a run -> parameters, where known
    limited: dict[str, int]  # model of a run -> the most documents a task that were asked of it


@dataclass(frozen=True)
class Said:
    """What `--column 'PUBLISHED=MODEL'` says."""

    published: str
    measured: str

    @property
    def where(self) -> str:
        return f"--column '{self.published}={self.measured}'"


def parse_columns(given: Iterable[str], tables: list[PaperTable]) -> list[Said]:
    """The options as they were given. UserError for one that names no published model of the tables, or names it twice."""
    said: list[Said] = []
    known = list(dict.fromkeys(model.name for table in tables for model in table.models))
    for text in given:
        published, equals, measured = (part.strip() for part in text.partition("="))
        if not (equals and published and measured):
            raise UserError(f"--column {text!r}: wanted is a published model and a run's, as in --column 'NHA=my-nha'")
        if published not in known:
            raise UserError(f"--column {text!r}: no column {published!r} in what is shown; {nearest(published, known)}")
        if any(other.published == published for other in said):
            raise UserError(f"--column {text!r}: {published} has a model already; give it once")
        said.append(Said(published, measured))
    return said


def fill(
    tables: list[PaperTable], runs: list[MeasuredRun], said: list[Said], sizes: dict[str, float] | None = None
) -> list[Filled]:
    """Every table with its cells. `sizes`: parameters of models whose runs do not say them.

    UserError for a column whose model is not in the runs, or is known to be of another size.
    """
    settings = {one: find_setting(runs, one.measured, one.where) for one in said}
    there = list(dict.fromkeys(setting for run in runs for setting in run.settings))
    known = {s.model: parameters_of(runs, s.model) or (sizes or {}).get(s.model) for s in [*there, *settings.values()]}
    known = {model: size for model, size in known.items() if size}
    random = set().union(*(run.random for run in runs))
    placed = [_placed(table, settings, known) for table in tables]
    for one, setting in settings.items():
        if setting.model in random:
            raise UserError(f"{one.where}: the weights of {setting.model} are random, never trained: leave the option out")
        _check_placed(one, setting, tables, placed, known)
    return [_filled(table, runs, columns, there, known) for table, columns in zip(tables, placed, strict=True)]


def _placed(table: PaperTable, settings: dict[Said, Setting], known: dict[str, float]) -> dict[Model, Setting]:
    pairs = ((model, one, setting) for model in table.models for one, setting in settings.items())
    return {m: s for m, one, s in pairs if m.name == one.published and _size_fits(m.params, known.get(s.model)) is not False}


def _check_placed(
    one: Said, setting: Setting, tables: list[PaperTable], placed: list[dict[Model, Setting]], known: dict[str, float]
) -> None:
    published = [model for table in tables for model in table.models if model.name == one.published]
    sizes = dict.fromkeys(model.params for model in published)
    size = known.get(setting.model)
    if not any(model.name == one.published for columns in placed for model in columns):
        raise UserError(
            f"{one.where}: {setting.model} has {size_text(size)} parameters, {one.published} here {' or '.join(sizes)}: leave "
            "the option out, and it stands beside the table without a verdict"
        )
    if size is None and len(sizes) > 1:
        raise UserError(
            f"{one.where}: there are {one.published} of {' and '.join(filter(None, sizes))}, and the run does not say how "
            f"large {setting.model} is: name one table"
        )


def _size_fits(params: str, size: float | None) -> bool | None:
    """Whether a model of that size is one of `params`; None where either is not known."""
    wanted = size_in(params)
    return None if wanted is None or size is None else wanted / ALIKE <= size <= wanted * ALIKE


def _filled(
    table: PaperTable,
    runs: list[MeasuredRun],
    columns: dict[Model, Setting],
    there: list[Setting],
    known: dict[str, float],
) -> Filled:
    cells = [_cell(table, column, model, columns.get(model), runs) for model in table.models for column in table.columns]
    standing = set(columns.values())
    own = {s: _own(table, s, runs, known.get(s.model)) for s in there if s not in standing}
    # A run of other tasks has nothing to say here.
    own = {setting: found for setting, found in own.items() if any(_tried(cell.measured) for cell in found)}
    used = {*standing, *own}
    return Filled(table, cells, columns, own, known, _limited(table, runs, used))


def _tried(measured: Figure) -> bool:
    return measured.value is not None or bool(measured.status)


def _limited(table: PaperTable, runs: list[MeasuredRun], used: set[Setting]) -> dict[str, int]:
    tasks = {how.task for metric, how in table.spec.metrics.items() if how.task}
    found: dict[str, int] = {}
    for run in runs:
        for row in run.rows:
            limit = run.limit(row["task"])
            if row["task"] in tasks and limit and row["status"] == "ok" and Setting(row["model"], row["window"]) in used:
                found[row["model"]] = max(limit, found.get(row["model"], 0))
    return found


def _cell(table: PaperTable, column: Column, model: Model, setting: Setting | None, runs: list[MeasuredRun]) -> Cell:
    published = table.published(model.name, column)
    measured = figure(runs, setting, table, column) if setting else Figure(reason=table.spec.metrics[column.metric].not_stated)
    verdict = judge(published, measured)
    return Cell(table, column, model, published, setting, measured, verdict, measured.reason, _command(table, column, measured))


def _command(table: PaperTable, column: Column, measured: Figure) -> str:
    return "" if measured.value is not None else " && ".join(eval_commands(table, [column]))


def judge(published: Published | None, measured: Figure) -> str:
    """The verdict on one cell of a model that is said to be the published one."""
    if measured.value is None:
        return UNAVAILABLE if measured.status == UNAVAILABLE else NOT_MEASURED
    if published is None:
        return NOTHING_PUBLISHED
    if measured.low is None or measured.high is None:
        return NO_INTERVAL
    # A printed figure stands for all that round to it; the last bit of a float decides nothing.
    slack = 0.5 * 10.0 ** -digits(published.value) + 1e-9
    value = float(published.value)
    return REPRODUCED if measured.low - slack <= value <= measured.high + slack else NOT_REPRODUCED


def digits(text: str) -> int:
    """Digits after the point of a printed figure."""
    return len(text.partition(".")[2])


def _own(table: PaperTable, setting: Setting, runs: list[MeasuredRun], size: float | None) -> list[Cell]:
    random = any(setting.model in run.random for run in runs)
    why = "its weights are random, never trained" if random else not_comparable(table, size)
    cells = []
    for column in table.columns:
        measured = figure(runs, setting, table, column)
        there = measured.value is not None
        verdict = NOT_COMPARABLE if there else judge(None, measured)
        reason, command = (why if there else measured.reason), _command(table, column, measured)
        cells.append(Cell(table, column, None, None, setting, measured, verdict, reason, command))
    return cells


def not_comparable(table: PaperTable, size: float | None) -> str:
    """Why a model that is not said to be one of the table's is not compared with them."""
    params = list(dict.fromkeys(model.params for model in table.models if size_in(model.params)))
    if not params:
        return "the source does not say the model's size"
    if size is None:
        return f"the model's size is not recorded, the table is of {' and '.join(params)}"
    if not any(_size_fits(text, size) for text in params):
        return f"{size_text(size)} against {' and '.join(params)}"
    tokens = list(dict.fromkeys(model.tokens for model in table.models if model.tokens))
    told = f" ({' or '.join(tokens)} tokens)" if tokens else ""
    return f"its training is not said to be the published one{told}"
