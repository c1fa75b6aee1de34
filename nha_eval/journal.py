"""The journal of a run: one checksummed JSON file a cell, written whole or not at all.

A file appears under its name only when every byte of it is on disk (temporary file, fsync, rename), so a SIGKILL at any
moment leaves finished cells and nothing half done. Reading checks the SHA-256 inside: a truncated or edited file counts
as not there and the cell is done again. Per-example scores stand beside in `samples/`, and a cell whose samples are
missing counts as not there either.

While a cell is in hand, the model's answers are appended to `answers/CELL.jsonl` as they come: a line a batch, each with a
checksum, so that what a kill cuts off is the last line at most. They are handed to whoever begins that cell anew, and gone once
it is finished. They are not synced: what a power cut takes is asked again.
"""

import contextlib
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from nha_eval.errors import MachineError, is_disk_trouble

SCHEMA = 2
FINAL = ("ok", "oom")  # a cell's other ends are tried again


def write_atomic(path: Path, text: str) -> None:
    """Replace `path` by `text` at once and durably.

    Raises MachineError when the disk is full or gone; what was at `path` before is then still there.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except BaseException as problem:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        if is_disk_trouble(problem):
            raise _not_written(path, problem) from problem
        raise


def _not_written(path: Path, problem: OSError) -> MachineError:
    return MachineError(
        f"cannot write {path}: {os.strerror(problem.errno)}; what was finished is kept: free some space, then give the same "
        "command again"
    )


def _sync_folder(folder: Path) -> None:
    # Some network file systems refuse to sync a folder; the rename itself is what matters there.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plain(value: Any) -> Any:
    """The value as strict JSON can hold it: numpy scalars become Python's, infinities and NaN the strings 'inf',
    '-inf', 'nan'.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        return plain(value.item())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


class Journal:
    """The cells of one run folder."""

    def __init__(self, run_dir: Path):
        self.cells = run_dir / "cells"
        self.samples = run_dir / "samples"
        self.answers = run_dir / "answers"

    def write(self, cell_id: str, record: dict[str, Any], samples: list[dict[str, Any]] | None = None) -> None:
        """Store a finished cell; `samples`, one dict an example, first, so that a cell never stands without them."""
        record = {**plain(record), "schema": SCHEMA}
        if samples:
            text = "".join(json.dumps(plain(sample), sort_keys=True, ensure_ascii=False) + "\n" for sample in samples)
            write_atomic(self.samples / f"{cell_id}.jsonl", text)
            record["samples_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        record["sha256"] = _digest(record)
        write_atomic(self.cells / f"{cell_id}.json", json.dumps(record, indent=1, sort_keys=True) + "\n")
        self._forget_answers(cell_id, record)

    def note_answers(self, cell_id: str, answers: dict[str, Any]) -> None:
        """Append a batch's answers to those of the cell. Raises MachineError when the disk is full or gone."""
        answers = plain(answers)
        line = json.dumps({"answers": answers, "sha256": _digest(answers)}, ensure_ascii=False) + "\n"
        try:
            self.answers.mkdir(parents=True, exist_ok=True)
            with (self.answers / f"{cell_id}.jsonl").open("a", encoding="utf-8", newline="") as file:
                file.write(line)
        except OSError as problem:
            if not is_disk_trouble(problem):
                raise
            raise _not_written(self.answers, problem) from problem

    def read_answers(self, cell_id: str) -> dict[str, Any]:
        """What is known of a cell that is not finished: all whole lines, after which the file holds nothing else."""
        path = self.answers / f"{cell_id}.jsonl"
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except OSError:
            return {}
        found, whole = {}, []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                content = json.loads(line)
                if line.endswith(b"\n") and content["sha256"] == _digest(content["answers"]):
                    found |= content["answers"]
                    whole.append(line)
        if len(whole) < len(lines):
            # What is appended next must begin on a line of its own.
            write_atomic(path, b"".join(whole).decode())
        return found

    def _forget_answers(self, cell_id: str, record: dict[str, Any]) -> None:
        if record.get("status") in FINAL:
            with contextlib.suppress(OSError):
                (self.answers / f"{cell_id}.jsonl").unlink()

    def read(self, cell_id: str) -> dict[str, Any] | None:
        """The cell's record; None when it is not there, not whole, or without its samples."""
        try:
            record = json.loads((self.cells / f"{cell_id}.json").read_text(encoding="utf-8"))
            claimed = record.pop("sha256")
            if record.get("schema") != SCHEMA or claimed != _digest(record):
                return None
            wanted = record.get("samples_sha256")
            if wanted is not None and _file_digest(self.samples / f"{cell_id}.jsonl") != wanted:
                return None
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None
        return record

    def adopt(self, other: "Journal") -> None:
        """Take over the finished cells of another journal that are not here yet, and the answers of those begun."""
        for file in sorted(other.cells.glob("*.json")):
            if self.read(file.stem) is not None or (record := other.read(file.stem)) is None:
                continue
            if "samples_sha256" in record:
                write_atomic(self.samples / f"{file.stem}.jsonl", (other.samples / f"{file.stem}.jsonl").read_text("utf-8"))
            write_atomic(self.cells / file.name, file.read_text("utf-8"))
        for file in sorted(other.answers.glob("*.jsonl")):
            record = self.read(file.stem)
            if record is None or record.get("status") not in FINAL:
                known = self.read_answers(file.stem)
                if new := {key: answer for key, answer in other.read_answers(file.stem).items() if key not in known}:
                    self.note_answers(file.stem, new)

    def sweep(self) -> None:
        """Remove the temporary files that a killed run left, and answers that their cell has outlived."""
        for folder in (self.cells, self.samples, self.answers, self.cells.parent):
            for leftover in folder.glob(".*.tmp"):
                with contextlib.suppress(OSError):
                    leftover.unlink()
        for file in self.answers.glob("*.jsonl"):
            if (record := self.read(file.stem)) is not None:
                self._forget_answers(file.stem, record)
