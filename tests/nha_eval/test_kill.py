"""Runs killed, interrupted or out of disk: what is finished stays, and the same command ends as an unbroken run does."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fakes
import psutil
import pytest

PROGRAM = Path(fakes.__file__)
TABLES = ("scores.csv", "costs.csv")


def start(folder, seconds="0.05", tasks=""):
    command = [sys.executable, str(PROGRAM), str(folder), seconds, tasks]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def cells(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}


def wait_for_cells(process, folder, count, seconds=30):
    until = time.monotonic() + seconds
    while len(cells(folder)) < count and process.poll() is None:
        assert time.monotonic() < until, "no cell came"
        time.sleep(0.01)


def worker_of(process, seconds=10):
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children()
            if children:
                return children[0]
        time.sleep(0.005)
    return None


def ended(worker):
    """Whether a worker is gone; where nobody collects orphans, a zombie is as gone as it gets."""
    try:
        return worker is None or not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert fakes.make_run(folder).go() == 0
    return {name: (folder / name).read_bytes() for name in TABLES}


def check_equal(folder, whole):
    assert {name: (folder / name).read_bytes() for name in TABLES} == whole
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("seed", [0, 1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_runner_killed_at_random_moments(tmp_path, whole, seed):
    moments = random.Random(seed)
    worker = None
    for _ in range(3):
        process = start(tmp_path)
        time.sleep(moments.uniform(0.1, 1.2))
        worker = worker_of(process, seconds=0.5) or worker
        finished = cells(tmp_path)
        process.kill()
        process.wait()
        kept = cells(tmp_path)
        assert finished.items() <= kept.items()
    process = start(tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert kept.items() <= cells(tmp_path).items(), "a finished cell was redone"
    check_equal(tmp_path, whole)
    assert ended(worker)


@pytest.mark.parametrize("whom", ["runner", "worker"])
def test_a_killed_cell_goes_on_at_the_next_document(tmp_path, whole, whom, monkeypatch):
    log = tmp_path / "asked"
    monkeypatch.setenv("FAKE_LOG", str(log))
    moments, run = random.Random(7), tmp_path / "run"
    for _ in range(3):
        process = start(run, seconds="0.6")
        time.sleep(moments.uniform(1.2, 2.4))
        victim = process if whom == "runner" else worker_of(process)
        if victim is not None:
            victim.kill()
        process.communicate(timeout=60)
    process = start(run, seconds="0.1")
    process.communicate(timeout=60)
    assert process.returncode == 0
    check_equal(run, whole)
    asked = Counter(log.read_text().splitlines())
    assert len(asked) == 12 * fakes.DOCUMENTS
    # What was on its way when the kill came is asked again, and nothing else.
    assert sum(asked.values()) - len(asked) <= 3 * 2
    assert not list((run / "answers").iterdir())


def test_the_worker_does_not_outlive_its_runner(tmp_path):
    process = start(tmp_path, tasks="lasts")
    worker = worker_of(process)
    time.sleep(0.5)
    process.kill()
    process.wait()
    time.sleep(0.5)
    assert ended(worker)


@pytest.mark.parametrize("seed", [0, 1])
def test_worker_killed_at_random_moments(tmp_path, whole, seed):
    moments = random.Random(seed)
    process = start(tmp_path)
    for _ in range(2):
        time.sleep(moments.uniform(0.1, 0.8))
        worker = worker_of(process, seconds=1)
        if worker is not None:
            with contextlib.suppress(psutil.Error):
                worker.kill()
    _, messages = process.communicate(timeout=60)
    assert process.returncode in (0, 1), messages
    failed = (tmp_path / "scores.csv").read_text().count(",error,") + (tmp_path / "costs.csv").read_text().count(",error,")
    assert (failed > 0) == (process.returncode == 1)
    process = start(tmp_path)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    check_equal(tmp_path, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_ends_at_once_and_says_how_to_go_on(tmp_path, number):
    process = start(tmp_path, tasks="quick,lasts")
    wait_for_cells(process, tmp_path, 1)
    worker = worker_of(process)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(number)
    _, messages = process.communicate(timeout=20)
    assert time.monotonic() - began < 2
    assert process.returncode == 130
    last = messages.strip().splitlines()[-1]
    assert "the same command again" in last
    assert "Traceback" not in messages
    assert ended(worker)
    assert len(cells(tmp_path)) == 1


def test_interrupted_while_starting(tmp_path):
    process = start(tmp_path, tasks="lasts")
    worker_of(process)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in messages


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 120 KiB; skips where it cannot be had."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.name != "posix":
        pytest.skip("no mount here")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_with_1_and_keeps_what_was_done(small_disk, whole):
    filler = small_disk / "filler"
    run = small_disk / "run"
    process = start(run, "0.1")
    wait_for_cells(process, run, 4)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 1, messages
    last = messages.strip().splitlines()[-1]
    assert last.startswith("error:")
    assert "free some space" in last
    assert "Traceback" not in messages
    kept = cells(run)
    assert len(kept) >= 4
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    process = start(run, "0")
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert kept.items() <= cells(run).items()
    check_equal(run, whole)
