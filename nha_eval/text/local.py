"""Training text out of files that the user has.

local_corpus("~/books", Path("~/books").expanduser(), characters=10**8).documents()
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nha_eval.errors import UserError, one_line, printable
from nha_eval.text.documents import Corpus, Document
from nha_eval.text.showing import note

FIELD = "text"
READ = (".txt", ".md", ".jsonl", ".jsonl.gz", ".parquet")
_BLOCK = 1 << 20


def local_corpus(given: str, path: Path, characters: int) -> Corpus:
    """The documents in a file, or in all files of a folder that can be read. Raises UserError where there is none, or one is
    found to hold no text or the tasks' own documents.
    """
    files = _files(given, path)
    digest = hashlib.sha256(str(characters).encode())
    for file in files:
        digest.update(b"\0" + file.relative_to(path).as_posix().encode("utf-8", "surrogateescape") + b"\0")
        try:
            with file.open("rb") as content:
                while block := content.read(_BLOCK):
                    digest.update(block)
        except OSError as problem:
            raise UserError(f"source {given!r}: {file} cannot be read: {problem.strerror}") from problem
    value = digest.hexdigest()[:16]
    about = {"source": given, "kind": "files", "licence": "not stated", "files": len(files), "digest": value}

    def documents() -> Iterator[Document]:
        left = characters
        for file in files:
            # A single file's name relative to itself is a dot.
            name = file.name if file == path else file.relative_to(path).as_posix()
            for number, text in enumerate(read_file(file)):
                if len(text) > left:
                    note(f"note: source {given!r}: read up to {name}, at {characters} characters; the rest is left")
                    return
                left -= len(text)
                if text.strip():
                    yield Document(text, given, name if number == 0 else f"{name}:{number}")

    return Corpus(value, about, documents)


def _files(given: str, path: Path) -> list[Path]:
    from nha_eval.text.sources import refuse_test_data

    if path.is_file():
        if not path.name.lower().endswith(READ):
            raise UserError(f"source {given!r}: wanted is a folder, or a file ending in {', '.join(READ)}")
        return [path]
    files = []
    for folder, below, names in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found = [Path(folder) / name for name in sorted(names) if name.lower().endswith(READ) and not name.startswith(".")]
        if found:
            refuse_test_data(given, Path(folder))
        files += found
    if not files:
        raise UserError(f"source {given!r}: the folder holds no file ending in {', '.join(READ)}: give one with text in it")
    return files


def read_file(file: Path) -> Iterator[str]:
    """The documents in a file. Raises UserError, naming the line, where it cannot be read or lacks the field `text`."""
    name = file.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet(file)
        elif name.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_lines(file)
        else:
            yield decode(file.read_bytes())
    except (OSError, EOFError, zlib.error) as problem:
        raise UserError(f"{file} cannot be read: {one_line(problem)}") from problem


def decode(data: bytes) -> str:
    """UTF-8, or else Windows' western letters, which any bytes can be read as; line ends as Unix has them."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json_lines(file: Path) -> Iterator[str]:
    with gzip.open(file, "rb") if file.name.lower().endswith(".gz") else file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as problem:
                raise UserError(f"{file}, line {number}: this is no JSON ({one_line(problem, 80)})") from problem
            if not isinstance(row, dict) or not isinstance(row.get(FIELD), str):
                raise UserError(
                    f"{file}, line {number}: wanted is an object with text under {FIELD!r}, as in {{{FIELD!r}: ...}}"
                )
            _refuse_task_documents(file, row)
            yield row[FIELD]


def _parquet(file: Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = table.schema_arrow.names
        if FIELD not in columns:
            shown = printable(", ".join(columns), 120)
            raise UserError(f"{file}: there is no column {FIELD!r}, only {shown}: rename the one that holds the text")
        _refuse_task_documents(file, dict.fromkeys(columns))
        for batch in table.iter_batches(columns=[FIELD]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise UserError(f"{file}: the column {FIELD!r} holds {type(text).__name__}: wanted is text")
                yield text
    except pyarrow.ArrowInvalid as problem:
        raise UserError(f"{file} cannot be read: {one_line(problem)}") from problem


def _refuse_task_documents(file: Path, row: dict[str, Any]) -> None:
    """Raises UserError for documents of the recall tasks, told by their fields."""
    from tasks.hub_recall.forms import FORMS

    for name, form in FORMS.items():
        if FIELD in form.fields and set(form.fields) <= set(row):
            raise UserError(
                f"{file}: these are documents of the task {name} ({', '.join(form.fields)}), which models are tested on: give "
                "other text, or rename the fields where they are not"
            )
