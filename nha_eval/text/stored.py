"""Corpora that were fetched, in the cache: `documents.parquet` and `manifest.json`, which says what they are and where from.

stored_corpus("debian", folder, make)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nha_eval.errors import MachineError, UserError, is_disk_trouble, one_line
from nha_eval.text.documents import Corpus, Document

MANIFEST, DOCUMENTS = "manifest.json", "documents.parquet"
_ROWS = 5000  # a group of rows


def text_folder() -> Path:
    """Where fetched text and its tokens are kept. Not created here."""
    from models.assets import cache_dir

    return cache_dir() / "text"


def stored_corpus(given: str, name: str, make: Callable[[Path], tuple[list[Document], dict[str, Any]]], limit: int) -> Corpus:
    """The corpus in the cache's folder `name`, made first where it is not there whole; at most `limit` characters of it.

    `make(scratch)` gives the documents and the manifest; `scratch` is an empty folder, removed afterwards. A second process
    waits for the first. Raises what `make` raises, and MachineError where the disk is full.
    """
    from filelock import FileLock

    folder = text_folder() / name
    manifest = manifest_of(folder)
    if manifest is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_name(f"{name}.lock")):
                manifest = manifest_of(folder) or _make(folder, make)
        except OSError as problem:
            if is_disk_trouble(problem):
                raise MachineError(f"cannot fetch {given}: {problem}; free some space, then try again") from problem
            raise UserError(
                f"cannot keep {given} in {folder.parent}: {problem.strerror or problem}: set NHA_EVAL_CACHE to a folder that "
                "can be written"
            ) from problem
    digest = hashlib.sha256(f"{manifest['digest']} {limit}".encode()).hexdigest()[:16]
    return Corpus(digest, {"source": given, **manifest}, lambda: _read(folder, given, limit))


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a corpus that lies whole in the folder, else None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = manifest["bytes"] == (folder / DOCUMENTS).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if whole else None


def _make(folder: Path, make: Callable[[Path], tuple[list[Document], dict[str, Any]]]) -> dict[str, Any]:
    import pyarrow
    import pyarrow.parquet

    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "scratch").mkdir(parents=True)
        (partial / "made").mkdir()
        documents, manifest = make(partial / "scratch")
        digest = hashlib.sha256()
        for document in documents:
            digest.update(f"{document.name}\0{document.text}\0".encode("utf-8", "replace"))
        table = pyarrow.table({"name": [d.name for d in documents], "text": [d.text for d in documents]})
        file = partial / "made" / DOCUMENTS
        pyarrow.parquet.write_table(table, file, compression="zstd", row_group_size=_ROWS)
        manifest = {
            **manifest,
            "documents": len(documents),
            "characters": sum(len(document.text) for document in documents),
            "digest": digest.hexdigest()[:16],
            "bytes": file.stat().st_size,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (partial / "made" / MANIFEST).write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        (partial / "made").rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _read(folder: Path, given: str, limit: int) -> Iterator[Document]:
    """Raises UserError where the file is not what was written."""
    for name, text in _kept(folder, given):
        limit -= len(text)
        if limit < 0:
            return
        yield Document(text, given, name)


def _kept(folder: Path, given: str) -> Iterator[tuple[str, str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(folder / DOCUMENTS).iter_batches(batch_size=_ROWS):
            yield from zip(batch.column("name").to_pylist(), batch.column("text").to_pylist(), strict=True)
    # Corrupt pages and a lost column come as one or another of these.
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as problem:
        raise UserError(
            f"what is kept of {given} cannot be read ({one_line(problem, 120)}): remove {folder}, and it is fetched anew"
        ) from problem
