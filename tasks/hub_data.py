"""Data sets of the Hugging Face hub, or what the user has in their place: a folder, or one file, in the hub's schema.

A folder is a clone of the hub's repository, what `save_to_disk` left, or files named after their splits
(`validation.jsonl`, `test-00000.parquet`). A single file (.jsonl, .json, .parquet, .csv) stands for any split that is asked
for.

    python -c "from tasks.hub_data import read_local; print(read_local('fda.jsonl')['validation'][0])"
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def names_of(source: str, hub_id: str) -> tuple[str, ...]:
    """What a data set may be called: its short name, its hub id, the short name without a length (`nq` for `nq_512`)."""
    return tuple(dict.fromkeys((source, hub_id, re.sub(r"_\d+$", "", source))))


def given_for(source: str, hub_id: str, data: Mapping[str, str]) -> str | None:
    """The local path in place of a data set, out of paths by name; None where none is given."""
    return next((data[name] for name in names_of(source, hub_id) if name in data), None)


class AnySplit(dict):
    """One file's documents, under whatever name of a split they are asked for."""

    def __init__(self, documents: "Dataset") -> None:
        super().__init__(validation=documents, test=documents)
        self._documents = documents

    def __missing__(self, split: str) -> "Dataset":
        return self._documents


def read_local(path: str | Path, config: str | None = None) -> Any:
    """The splits in a local folder or file, by name; `config` is the hub's configuration, where the folder has several.

    Raises ValueError for a path that is not there or holds nothing that can be read.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise ValueError(f"no such data: {str(path)!r}: give a folder or a {', '.join(READERS)} file in the hub's schema")
    try:
        with _without_bars():
            return _read(place, config)
    except Exception as problem:
        # `datasets` wraps what went wrong in errors of many kinds; the innermost one says it.
        reason = problem
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise ValueError(f"data {str(path)!r} cannot be read: {' '.join(str(reason).split())}") from problem


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Local files are read in no time: a bar for each split is noise between a run's own lines."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _read(place: Path, config: str | None) -> Any:
    import datasets

    if place.is_file():
        if place.suffix not in READERS:
            raise ValueError(f"wanted is a folder, or a file ending in {', '.join(READERS)}")
        return AnySplit(datasets.load_dataset(READERS[place.suffix], data_files=str(place), split="train"))
    if any((place / name).is_file() for name in ("dataset_dict.json", "state.json")):
        found = datasets.load_from_disk(str(place))
        return AnySplit(found) if isinstance(found, datasets.Dataset) else found
    if config and (place / config).is_dir():
        place = place / config
    if files := _files_by_split(place):
        return datasets.load_dataset(READERS[Path(next(iter(files.values()))[0]).suffix], data_files=files)
    known = datasets.get_dataset_config_names(str(place))
    return datasets.load_dataset(str(place), config if config in known else None)


def _files_by_split(place: Path) -> dict[str, list[str]]:
    """A folder's files by the split that each is named after; `datasets` by itself would take `dev` for `validation`."""
    files: dict[str, list[str]] = {}
    if (place / "README.md").exists():
        return files
    for file in sorted(place.iterdir()):
        if file.suffix in READERS:
            files.setdefault(re.sub(r"-\d+(-of-\d+)?$", "", file.stem), []).append(str(file))
    return files


def split_of(hub_id: str, split: str, given: str | Path | None = None) -> "Dataset":
    """One split of a hub data set, from `given` where there is a folder or file in its place.

    Raises ValueError for local data without that split, and OSError (of several kinds) where the hub cannot give it.
    """
    import datasets

    if given is None:
        return datasets.load_dataset(hub_id, split=split)
    found = read_local(given)
    if split not in found:
        raise ValueError(f"data {str(given)!r} has no split {split!r}, only {', '.join(found)}: name a file {split}.jsonl")
    return found[split]


def is_cached(hub_id: str) -> bool:
    """Whether `datasets` holds the data set from an earlier time, so that the hub need not be asked."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / hub_id.replace("/", "___")
    return folder.is_dir() and any(folder.iterdir())
