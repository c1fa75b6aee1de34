"""A fault campaign: evaluations killed, starved of memory and disk, corrupted and run twice at once, and what becomes of them.

    python tests/faults/campaign.py --seed 0 --kills 100 --out results/runs/faults

After each fault the same command, given until it ends by itself, must leave the tables of an unbroken run to the byte, no
document scored twice, and no file half written. Writes faults.json, a record a fault; 0 when all held. `--jobs` faults go on
side by side, each in a folder and with a seed of its own, so that what is drawn does not depend on how many.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import psutil
import typer

sys.path.insert(0, str(Path(__file__).parents[2]))
from nha_eval.journal import Journal

ROOT = Path(__file__).parents[2]
GRID = [
    *("--suite", "recall-local", "--suite", "commonsense-local", "--task", "recall_needle", "--task", "commonsense_timedial"),
    *("--window", "16,full", "--length", "512", "--contexts", "2", "--limit", "12", "--no-costs", "--device", "cpu"),
    *("--threads", "1", "--batch", "2"),
]
MODELS = ["--model", "nha-tiny", "--model", "gla-tiny"]
LONGEST = 600  # seconds that any command may take
SERIES = 10  # kills in one go


class Broken(AssertionError):
    """Something that must hold did not."""


class Campaign:
    """Runs into folders under `out`; `records` says of each fault what was done."""

    def __init__(self, out: Path, seed: int):
        self.out, self.seed, self.draw, self.records = out, seed, random.Random(seed), []
        out.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        self.whole = self.fresh("whole")
        self.finish(self.whole)
        self.seconds = time.monotonic() - began
        self.table = (self.whole / "scores.csv").read_bytes()

    def apart(self, name: str) -> Campaign:
        """The same campaign with a folder and a seed of its own; records are shared."""
        other = copy.copy(self)
        other.out, other.draw = self.out / name, random.Random(f"{self.seed} {name}")
        other.out.mkdir(exist_ok=True)
        return other

    def fresh(self, name: str) -> Path:
        folder = self.out / name
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    def start(self, folder: Path, models=MODELS, more=(), program=("run_eval.py",)) -> subprocess.Popen:
        command = [sys.executable, *program, "eval", *models, *GRID, "--out", str(folder), *more]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def run(self, folder: Path, models=MODELS) -> tuple[int, str]:
        """(exit code, what it said)."""
        process = self.start(folder, models)
        said = process.communicate(timeout=LONGEST)[1]
        return process.returncode, said

    def finish(self, folder: Path, models=MODELS) -> None:
        """The command until it is done; a worker that was killed left a cell that is tried again."""
        for _ in range(5):
            code, said = self.run(folder, models)
            if code == 0:
                return
            if code != 1:
                break
        raise Broken(f"exit code {code}: {said[-500:]}")

    def check(self, folder: Path, table: bytes | None = None) -> None:
        """What must hold of a finished run."""
        found = (folder / "scores.csv").read_bytes()
        if found != (self.table if table is None else table):
            raise Broken(f"{folder}/scores.csv differs from an unbroken run's")
        if left := [str(path) for path in folder.rglob("*.tmp")]:
            raise Broken(f"half-written files: {left}")
        journal = Journal(folder)
        for path in journal.cells.glob("*.json"):
            if journal.read(path.stem) is None:
                raise Broken(f"{path} is not whole")
        for path in journal.samples.glob("*.jsonl"):
            scored = Counter(json.loads(line)["doc_id"] for line in path.read_text(encoding="utf-8").splitlines())
            if twice := [doc for doc, count in scored.items() if count > 1]:
                raise Broken(f"{path}: documents scored twice: {twice}")
        if left := list(journal.answers.glob("*")):
            raise Broken(f"answers that their cells have outlived: {left}")

    def answered(self, folder: Path) -> int:
        """How many requests of cells begun are answered. None may be answered twice, however often the run was killed."""
        keys = Counter()
        for path in Journal(folder).answers.glob("*.jsonl"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # The last line may be cut off.
                with contextlib.suppress(ValueError):
                    keys.update((path.stem, key) for key in json.loads(line)["answers"])
        if twice := [key for key, count in keys.items() if count > 1]:
            raise Broken(f"{folder}: answered twice: {twice}")
        return len(keys)

    def note(self, fault: str, **about) -> None:
        self.records.append({"fault": fault, **about})
        print(f"[{len(self.records)}] {fault} {about}", flush=True)

    # ---- the faults

    def kill(self, count: int) -> None:
        """SIGKILL to runner or worker at random moments of the run, or soon after an answer came, again and again in one folder
        until a run gets through."""
        killed = 0
        while killed < count:
            folder, here = self.fresh("killed"), 0
            while True:
                process = self.start(folder)
                whom = self.draw.choice(["runner", "worker"])
                began, moment, soon = time.monotonic(), self.draw.uniform(0, self.seconds), self.draw.uniform(0, 0.2)
                if self.draw.random() < 0.5:
                    known = self.answered(folder)
                    while self.answered(folder) <= known and process.poll() is None:
                        time.sleep(0.01)
                    moment = time.monotonic() - began + soon
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(0.0, moment - (time.monotonic() - began)))
                    break
                victim = psutil.Process(process.pid)
                if whom == "worker":
                    children = victim.children()
                    if not children:
                        process.communicate(timeout=LONGEST)
                        break
                    victim = children[0]
                struck = False
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
                    struck = True
                process.communicate(timeout=LONGEST)
                answered = self.answered(folder)
                if struck:
                    killed, here = killed + 1, here + 1
                    self.note("kill", whom=whom, second=round(moment, 2), answered=answered)
                if killed >= count or here >= 8:
                    break
            self.finish(folder)
            self.check(folder)

    def corrupt(self) -> None:
        """Cells and samples cut short or with a bit flipped: that cell, and no other, is done again."""
        for kind in ("cells", "samples"):
            for way in ("truncated", "flipped"):
                folder = self.fresh("corrupt")
                shutil.copytree(self.whole, folder)
                victim = self.draw.choice(sorted((folder / kind).iterdir()))
                damage(victim, way, self.draw)
                before = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir() if path.stem != victim.stem}
                self.finish(folder)
                self.check(folder)
                if {path: path.stat().st_mtime_ns for path in before} != before:
                    raise Broken(f"cells besides {victim} were done again")
                self.note("corrupt", file=f"{kind}/{victim.name}", way=way)

    def corrupt_answers(self) -> None:
        """Answers of a cell begun, cut short or with a bit flipped: those lines, and no others, are asked again."""
        for way in ("truncated", "flipped"):
            folder = self.fresh("corrupt")
            process = self.start(folder)
            while not self.answered(folder) and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.communicate(timeout=LONGEST)
            there = sorted(Journal(folder).answers.glob("*.jsonl"))
            for victim in there:
                damage(victim, way, self.draw)
            self.finish(folder)
            self.check(folder)
            self.note("corrupt", file=f"answers of {len(there)} cells", way=way)

    def checkpoint(self) -> None:
        """A checkpoint cut short is refused; one with a bit flipped is another model; the old one finds its cells again."""
        from models import presets

        saved = self.fresh("checkpoint")
        loaded = presets.load("nha-tiny")
        loaded.model.save_pretrained(saved)
        loaded.tokenizer.save_pretrained(saved)
        folder, models = self.fresh("of-checkpoint"), ["--model", str(saved)]
        self.finish(folder, models)
        table, weights = (folder / "scores.csv").read_bytes(), saved / "model.safetensors"
        good = weights.read_bytes()
        damage(weights, "truncated", self.draw)
        code, said = self.run(folder, models)
        if code != 2 or len(said.strip().splitlines()) != 1:
            raise Broken(f"a truncated checkpoint gave exit code {code}: {said[-300:]}")
        weights.write_bytes(good)
        damage(weights, "flipped", self.draw)
        code, said = self.run(folder, models)
        if code not in (0, 2) or "Traceback" in said:
            raise Broken(f"a flipped checkpoint gave exit code {code}: {said[-300:]}")
        weights.write_bytes(good)
        self.finish(folder, models)
        self.check(folder, table)
        self.note("checkpoint", flipped_exit=code)

    def starve(self) -> None:
        """Memory that runs out at random calls, in every cell: batches are halved, and nothing shows."""
        for seed in range(3):
            folder = self.fresh("starved")
            process = self.start(folder, program=("tests/faults/starved.py", str(seed)))
            said = process.communicate(timeout=LONGEST)[1]
            if process.returncode:
                raise Broken(f"short of memory, exit code {process.returncode}: {said[-300:]}")
            self.check(folder)
            self.note("out of memory", seed=seed)

    def kill_actor(self) -> None:
        """SIGKILL to a Ray actor at work: another takes its cell, in the same run."""
        folder = self.fresh("ray")
        process = self.start(folder, more=("--executor", "ray", "--workers", "2"))
        victim = None
        while process.poll() is None and (victim is None or not self.answered(folder)):
            victim = victim or next(iter(actors_of(process.pid)), None)
            time.sleep(0.05)
        if victim is None or process.poll() is not None:
            raise Broken(f"no Ray actor was at work: {process.communicate()[1][-300:]}")
        victim.kill()
        said = process.communicate(timeout=LONGEST)[1]
        if process.returncode:
            raise Broken(f"after a Ray actor's death, exit code {process.returncode}: {said[-300:]}")
        self.check(folder)
        self.note("Ray actor killed")

    def twice(self) -> None:
        """A second run in the folder of one that goes on is turned away."""
        folder = self.fresh("twice")
        first = self.start(folder)
        while not (folder / "spec.yaml").exists() and first.poll() is None:
            time.sleep(0.05)
        code, said = self.run(folder)
        if code != 2 or "another run is working" not in said:
            raise Broken(f"the second run gave exit code {code}: {said[-300:]}")
        first.communicate(timeout=LONGEST)
        self.finish(folder)
        self.check(folder)
        self.note("twice")

    def read_only(self) -> None:
        """A folder that must not be written is refused, and taken once it may."""
        folder = self.fresh("read-only")
        folder.mkdir()
        folder.chmod(0o555)
        code, said = self.run(folder)
        folder.chmod(0o755)
        if code != 2 or "cannot write into" not in said:
            raise Broken(f"a read-only folder gave exit code {code}: {said[-300:]}")
        self.finish(folder)
        self.check(folder)
        self.note("read-only")

    def full_disk(self) -> None:
        """A disk that fills up ends the run with a line; with room again it goes on. Wants the right to mount."""
        folder = self.fresh("full")
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
            self.note("full disk", skipped="this user may not mount a small disk")
            return
        try:
            code, said = self.run(folder)
            if code != 1 or "Traceback" in said or "No space left" not in said:
                raise Broken(f"a full disk gave exit code {code}: {said[-300:]}")
            subprocess.run(["mount", "-o", "remount,size=50m", str(folder)], check=True)
            self.finish(folder)
            self.check(folder)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        self.note("full disk")


def actors_of(pid: int) -> list[psutil.Process]:
    """The Ray actors that a run of this process has started."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "".join(child.cmdline()).startswith("ray::Host"):
                    found.append(child)
    return found


def damage(path: Path, way: str, draw: random.Random) -> None:
    """Cut a file short, or flip one of its bits."""
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    if way == "truncated":
        content = content[:at]
    else:
        content[at] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


def faults_of(campaign: Campaign, kills: int) -> list[Callable[[], None]]:
    """Every fault of the campaign, each by itself; the longest first."""
    series = [min(SERIES, kills - first) for first in range(0, kills, SERIES)]
    lanes = [campaign.apart(f"kills-{i}") for i in range(len(series))]
    names = ("starve", "corrupt", "corrupt_answers", "checkpoint", "kill_actor", "twice", "read_only", "full_disk")
    return [
        *(lambda lane=lane, count=count: lane.kill(count) for lane, count in zip(lanes, series, strict=True)),
        *(getattr(campaign.apart(name.replace("_", "-")), name) for name in names),
    ]


def main(out: Path = Path("results/runs/faults"), seed: int = 0, kills: int = 100, jobs: int = os.cpu_count() or 1) -> None:
    """Run the campaign; exit code 1 at the first thing that did not hold."""
    campaign = Campaign(out.absolute(), seed)
    try:
        with ThreadPoolExecutor(jobs) as pool:
            asked = [pool.submit(fault) for fault in faults_of(campaign, kills)]
            wait(asked, return_when=FIRST_EXCEPTION)
            pool.shutdown(wait=True, cancel_futures=True)
            for future in asked:
                if not future.cancelled():
                    future.result()
    except Broken as problem:
        campaign.note("BROKEN", what=str(problem))
        raise SystemExit(1) from problem
    finally:
        about = {"seed": seed, "kills": kills, "jobs": jobs, "faults": campaign.records}
        (campaign.out / "faults.json").write_text(json.dumps(about, indent=1) + "\n")
    print(f"{len(campaign.records)} faults, and every run ended as an unbroken one; {campaign.out / 'faults.json'}")


if __name__ == "__main__":
    typer.run(main)
