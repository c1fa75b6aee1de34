"""bench-op.csv, bench-model.csv and bench-harness.csv: tidy, a row a figure-set, written as soon as it is measured.

The same command again goes on where it stopped: a row that is there, whatever its status, is not measured again. So that
figures of two machines, of two versions or of changed kernels never stand in one table, a folder belongs to the machine
and the sources it was begun with (`identity` in environment.json); anything else needs `--fresh` or another folder. Only a
peer's package may come later: then what was not to be had is tried again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nha_eval.errors import MachineError, UserError, is_disk_trouble
from nha_eval.journal import plain, write_atomic

ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class Table:
    """A table by its name, as in `bench-op`; `key` are the columns that say what a row is a measurement of, `words` what those
    hold that are no numbers: anything, or beside numbers these alone. `required` are the numbers of a row that is ok."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    words: dict[str, tuple[str, ...] | None]
    required: tuple[str, ...] = ("length", "batch", "latency_ms")

    @property
    def file(self) -> str:
        return f"{self.name}.csv"

    @property
    def command(self) -> str:
        return self.name.replace("-", " ")

    def key_of(self, row: dict[str, Any]) -> tuple[str, ...]:
        """What a row is a measurement of."""
        return tuple(_text(row.get(column)) for column in self.key)

    def why_not(self, row: dict[str, str]) -> str | None:
        """What of a row that was read cannot have been written here; None where nothing is amiss."""
        needed = self.required if row["status"] == "ok" and row["phase"] != "ceiling" else ()
        for column, text in row.items():
            words = self.words.get(column, ("",))
            if words is None or (text in words and column not in needed):
                continue
            try:
                int(text) if column in COUNTS else float(text)
            except ValueError:
                return f"{column} is {text!r}, wanted {'an integer' if column in COUNTS else 'a number'}"
        return None


COUNTS = ("length", "length_asked", "batch", "batch_asked", "limit", "repeat")
ANYTHING = dict.fromkeys(("phase", "window", "dtype", "device", "backend", "graph", "note", "status", "reason"))


OP = Table(
    "bench-op",
    (
        *("implementation", "phase", "shape", "batch", "query_heads", "kv_heads", "key_dim", "value_dim", "slots"),
        *("length", "window", "dtype", "device", "backend"),
        *("latency_ms", "latency_ms_p25", "latency_ms_p75", "repeats", "graph"),
        *("tflops", "gbps", "roofline_share", "peak_memory_mb", "note", "status", "reason"),
    ),
    ("implementation", "phase", "shape", "batch", "length", "window", "dtype", "graph"),
    {**ANYTHING, "implementation": None, "shape": None},
)
MODEL = Table(
    "bench-model",
    (
        *("model", "size", "parameters", "phase", "length_asked", "length", "batch_asked", "batch", "window", "checkpointing"),
        *("dtype", "device", "backend"),
        *("latency_ms", "latency_ms_p25", "latency_ms_p75", "repeats", "cold_start_ms", "graph", "tokens_per_s"),
        *("peak_memory_mb", "state_bytes", "state_bytes_held", "weight_bytes", "floor_ms", "floor_share"),
        *("tflops", "gbps", "note", "status", "reason"),
    ),
    ("model", "size", "phase", "length_asked", "batch_asked", "window", "checkpointing", "dtype"),
    {
        **ANYTHING,
        **dict.fromkeys(("model", "size", "checkpointing")),
        "length_asked": ("", "longest"),
        "batch_asked": ("", "largest"),
    },
)
HARNESS = Table(
    "bench-harness",
    (
        *("phase", "side", "task", "length", "limit", "windows", "repeat", "batch", "dtype", "device", "threads"),
        *("seconds", "processor_s", "scoring_s", "score", "load_1m", "status", "reason"),
    ),
    ("phase", "side", "task", "limit", "windows", "repeat", "batch", "dtype"),
    {**ANYTHING, **dict.fromkeys(("side", "task", "windows"))},
    required=("limit", "repeat", "batch", "seconds", "processor_s"),
)


def read(folder: Path, table: Table) -> list[dict[str, str]]:
    """The whole rows of a folder's table, as text; a last line that was cut off is left out. Empty where there is none.
    UserError for another table, or one that was changed by hand and holds words for numbers."""
    try:
        text = (folder / table.file).read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    found = list(csv.reader(io.StringIO(whole)))
    if not found or found[0] != list(table.columns):
        if whole:
            raise UserError(
                f"{folder / table.file} is no table of `{table.command}`: give another folder, or measure anew with --fresh"
            )
        return []
    rows = [dict(zip(table.columns, line, strict=True)) for line in found[1:] if len(line) == len(table.columns)]
    for number, row in enumerate(rows, 1):
        why = table.why_not(row)
        if why is not None:
            raise UserError(f"{folder / table.file}, row {number}: {why}; mend the file, or measure anew with --fresh")
    return rows


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _line(values: list[Any]) -> str:
    text = io.StringIO()
    # A line break inside a value would look like a cut-off row.
    csv.writer(text, lineterminator="\n").writerow([" ".join(_text(value).split()) for value in values])
    return text.getvalue()


class Rows:
    """A folder's table, kept from others while the `with` block lasts; `rows` are those there, as text. `peers`: packages that
    decide no figure but their own.

    UserError when it cannot be written, belongs to another machine or other sources, or another run works in it.
    """

    def __init__(self, folder: Path, table: Table, identity: dict[str, Any], fresh: bool, peers: tuple[str, ...] = ()):
        self.folder, self.table, self.rows = folder, table, []
        self._identity, self._fresh, self._peers = plain(identity), fresh, peers

    def __enter__(self) -> Rows:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / ".lock", timeout=0)
            self._lock.acquire()
        except Timeout as problem:
            raise UserError(f"another run is working in {self.folder}: wait for it, or give another --out") from problem
        except OSError as problem:
            if is_disk_trouble(problem):
                raise
            raise UserError(f"cannot write into {self.folder}: {problem.strerror or problem}; give another --out") from problem
        try:
            self.rows = [] if self._fresh else read(self.folder, self.table)
            if self.rows:
                self._compare_identity()
            # Also takes a cut-off last line away.
            lines = (list(self.table.columns), *map(self._values, self.rows))
            write_atomic(self.folder / self.table.file, "".join(map(_line, lines)))
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def _values(self, row: dict[str, Any]) -> list[Any]:
        return [row.get(column) for column in self.table.columns]

    def _compare_identity(self) -> None:
        there = dict(read_environment(self.folder).get("identity") or {})
        come = {name for name in self._peers if name in there and there[name] is None and self._identity[name] is not None}
        if come:
            there |= {name: self._identity[name] for name in come}
            self.rows = [row for row in self.rows if row["status"] != "unavailable"]
        differing = [name for name in {**there, **self._identity} if there.get(name) != self._identity.get(name)]
        if differing:
            name = differing[0]
            raise UserError(
                f"{self.folder} holds figures of {name} {there.get(name)!r}, and here it is {self._identity.get(name)!r}: "
                "give --fresh to measure anew, or another --out"
            )

    def record(self, environment: dict[str, Any]) -> None:
        """Write environment.json; one that goes on keeps the first start's date and adds its own."""
        before = read_environment(self.folder) if self.rows else {}
        now = environment["date"]
        content = {
            **environment,
            "date": before.get("date", now),
            "resumed": [*before.get("resumed", []), now] if before else [],
            "identity": self._identity,
        }
        write_atomic(self.folder / ENVIRONMENT, json.dumps(plain(content), indent=1) + "\n")

    def append(self, row: dict[str, Any]) -> None:
        """Add a row durably. MachineError when the disk is full or gone."""
        self.rows.append({column: _text(row.get(column)) for column in self.table.columns})
        try:
            with (self.folder / self.table.file).open("a", encoding="utf-8", newline="") as file:
                file.write(_line(self._values(row)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as problem:
            raise MachineError(
                f"cannot write {self.folder / self.table.file}: {problem.strerror or problem}; what was measured is kept: "
                "free some space, then give the same command again"
            ) from problem


def read_environment(folder: Path) -> dict[str, Any]:
    """A folder's environment.json; empty where there is none."""
    try:
        content = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
