"""A table as its YAML says it, and the published figures that it is over.

    title: ...
    published: mom.csv                     # under published/
    rows: {table: recall, params: 1.3B}    # those of its rows that hold this, and whose metric is one of these:
    metrics:
      FDA: {suite: recall, task: recall_pla_fda, metric: contains, protocol: pla, length: 2048}
      avg: {mean_of: [FDA, SWDE]}
      commonsense_avg: {not_stated: the source does not say of which tasks}
    notes: [...]

A metric says how this project measures it, or why it cannot. A published figure that is not known is an empty cell.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nha_eval import yamls
from nha_eval.errors import UserError, nearest
from nha_eval.spec import spec_names

HERE = Path(__file__).parent
SPECS, PUBLISHED = HERE / "specs", HERE / "published"
COLUMNS = ["table", "model", "params", "tokens", "metric", "length", "value", "source", "note"]
MODELS_BY_METRICS, METRICS_BY_LENGTHS = "models by metrics", "metrics by lengths"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(_Strict):
    """How a published metric is measured: a task, the mean of other metrics, or not at all."""

    suite: str = ""
    task: str = ""
    metric: str = ""  # of the task, as scores.csv calls it
    protocol: str = ""  # under which alone it may be compared
    length: int | None = None  # tokens; None: texts as they come, or the published length
    unit: Literal["percent", "perplexity"] = "percent"  # percent: scores.csv has the share
    mean_of: tuple[str, ...] = ()  # metrics of the same table
    not_stated: str = ""  # why nothing can be measured that would be the same
    note: str = ""  # what is taken to be so, where the source does not say it

    @model_validator(mode="after")
    def _one_way(self) -> Metric:
        told = (self.suite, self.task, self.metric, self.protocol)
        if (all(told), bool(self.mean_of), bool(self.not_stated)).count(True) != 1 or (any(told) and not all(told)):
            raise ValueError("is wanted with suite, task, metric and protocol; or with mean_of; or with not_stated")
        return self


class TableSpec(_Strict):
    """A table's YAML, checked."""

    title: str
    published: str  # file under published/
    rows: dict[str, str]  # column -> what its rows hold there
    layout: Literal["models by metrics", "metrics by lengths"] = MODELS_BY_METRICS
    lengths: dict[str, int] = Field(default_factory=dict)  # published length -> tokens
    metrics: dict[str, Metric]
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names(self) -> TableSpec:
        if unknown := set(self.rows) - set(COLUMNS):
            raise ValueError(f"rows: no column {sorted(unknown)}")
        for name, metric in self.metrics.items():
            if wrong := [part for part in metric.mean_of if not getattr(self.metrics.get(part), "task", "")]:
                raise ValueError(f"{name} is a mean of {wrong}, which are no measured metrics of the table")
        return self


@dataclass(frozen=True)
class Published:
    """A row of a CSV; `value` as it is printed, so that its digits are known, and empty where there is none."""

    table: str
    model: str
    params: str
    tokens: str
    metric: str
    length: str
    value: str
    source: str
    note: str


@dataclass(frozen=True)
class Column:
    """What a figure is of: a metric, at a length as published (empty where there is none)."""

    metric: str
    length: str = ""

    def __str__(self) -> str:
        return f"{self.metric}, {self.length}" if self.length else self.metric


@dataclass(frozen=True)
class Model:
    """A model that figures are published of; `params` and `tokens` (of training) as published, empty where not said."""

    name: str
    params: str = ""
    tokens: str = ""

    @property
    def about(self) -> str:
        """`1.3B, 100B tokens`."""
        tokens = f"{self.tokens} tokens" if re.fullmatch(r"[0-9.]+[BMT]", self.tokens) else self.tokens
        return ", ".join(part for part in (self.params, tokens) if part)


@dataclass(frozen=True)
class PaperTable:
    """A table with its published rows."""

    name: str
    spec: TableSpec
    rows: tuple[Published, ...]

    @property
    def models(self) -> list[Model]:
        """In the order in which the figures name them."""
        return list(dict.fromkeys(Model(row.model, row.params, row.tokens) for row in self.rows))

    @property
    def columns(self) -> list[Column]:
        """Every metric, at each length that it is published at."""
        found = []
        for metric in self.spec.metrics:
            lengths = dict.fromkeys(row.length for row in self.rows if row.metric == metric) or [""]
            found += [Column(metric, length) for length in lengths]
        return found

    def published(self, model: str, column: Column) -> Published | None:
        """The figure, where there is one."""
        wanted = (model, column.metric, column.length)
        return next((row for row in self.rows if (row.model, row.metric, row.length) == wanted and row.value), None)

    def measures(self, column: Column) -> list[tuple[str, Metric, int | None]]:
        """What has to be measured for a column: (metric, how, tokens); empty where nothing can be."""
        metric = self.spec.metrics[column.metric]
        parts = metric.mean_of or ((column.metric,) if metric.task else ())
        found = [(part, self.spec.metrics[part]) for part in parts]
        return [(part, how, how.length or self.spec.lengths.get(column.length)) for part, how in found]


def table_names() -> list[str]:
    """Every table, by name, those of the NHA paper first."""
    return sorted(spec_names(SPECS), key=lambda name: (not name.startswith("nha-"), name))


@lru_cache(maxsize=32)
def published_rows(file: str) -> tuple[Published, ...]:
    """All rows of a CSV under published/."""
    with (PUBLISHED / file).open(encoding="utf-8", newline="") as lines:
        return tuple(Published(**{column: row[column] for column in COLUMNS}) for row in csv.DictReader(lines))


def read_table(name: str) -> PaperTable:
    """A table by its name. Raises UserError, with the nearest name, where there is none."""
    if name not in table_names():
        raise UserError(f"no such table: {name!r}; {nearest(name, table_names(), what='tables')}")
    spec = TableSpec.model_validate(yamls.read(SPECS / f"{name}.yaml"))
    rows = (row for row in published_rows(spec.published) if row.metric in spec.metrics)
    chosen = (row for row in rows if all(getattr(row, column) == value for column, value in spec.rows.items()))
    return PaperTable(name, spec, tuple(chosen))


def size_in(text: str) -> float | None:
    """`1.3B` or `380M` as a number; None for anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([MBT])", text.strip())
    return float(found[1]) * {"M": 1e6, "B": 1e9, "T": 1e12}[found[2]] if found else None


def size_text(parameters: float) -> str:
    """`0.11M`, `138M`, `1.36B`."""
    if parameters < 9.95e6:
        return f"{parameters / 1e6:.2g}M"
    return f"{parameters / 1e6:.0f}M" if parameters < 999.5e6 else f"{parameters / 1e9:.3g}B"
