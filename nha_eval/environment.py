"""Where a run was made: versions, commit, machine, seeds and the command, into environment.json.

Read without importing torch; what only the worker can know (threads, GPU, backend) is added when it is ready. The home
folder is written as `~`.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from nha_eval.journal import plain, write_atomic

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "nha-eval",
    "torch",
    "transformers",
    "lm_eval",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "pandas",
    "matplotlib",
    "pydantic",
    "typer",
    "rich",
    "triton",
    "fla-core",
    "einops",
    "tilelang",
    "flash-attn",
]


def versions() -> dict[str, str | None]:
    """Installed versions of the packages that matter; None for those not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def physical_cores() -> int:
    """Physical cores that this process may use: affinity and container quota counted."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(psutil.cpu_count(logical=False) or allowed, allowed)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def source_digest(*folders: str, root: Path = ROOT) -> str:
    """64 hex digits over the names and contents of the Python files under these folders of a source tree."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in (root / folder).rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def commit() -> dict[str, Any]:
    """The source tree's git commit and whether it has uncommitted changes; None for both where there is no repository."""

    def git(*words: str) -> str | None:
        try:
            # Otherwise `status` writes into the repository, and killed leaves a lock that stops every later commit.
            command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return answer.stdout.strip()

    # An installed copy may lie inside somebody else's repository.
    if git("ls-files", "--error-unmatch", "nha_eval/environment.py") is None:
        return {"commit": None, "dirty": None}
    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def without_home(text: str) -> str:
    """The text with the home folder as `~`."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def command_line() -> str:
    """The command as it was given."""
    program = Path(sys.argv[0]).name
    words = ["python", program] if program.endswith(".py") else [program]
    return without_home(shlex.join([*words, *sys.argv[1:]]))


def describe() -> dict[str, Any]:
    """This machine and this installation."""
    return {
        "versions": {"python": platform.python_version(), **versions()},
        **commit(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": physical_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
    }


def record(run: Path, settings: dict[str, Any], cells_planned: int) -> None:
    """Write environment.json; a resumed run keeps the first start's date and adds its own."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    before = read(run)
    content = {
        "date": before.get("date", now),
        "resumed": [*before.get("resumed", []), now] if before else [],
        "command": command_line(),
        **describe(),
        "seed": settings.get("seed"),
        "device": settings.get("device"),
        "dtype": settings.get("dtype"),
        "cells_planned": cells_planned,
        "models": before.get("models", {}),
    }
    _write(run, content)


def record_planned(run: Path, cells_planned: int) -> None:
    """Correct how many cells the run wants, where it is taken up with telemetry turned on or off and nothing is left to do."""
    content = read(run)
    if content and content.get("cells_planned") != cells_planned:
        _write(run, {**content, "cells_planned": cells_planned})


def planned_cells(content: dict[str, Any]) -> int | None:
    """How many cells a run wants, as its environment.json says; None where it does not."""
    wanted = content.get("cells_planned")
    return wanted if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 0 else None


def record_device(run: Path, model: str, ready: dict[str, Any]) -> None:
    """Add what the worker says of a model and of the device it runs on."""
    content = read(run)
    models = content.get("models", {})
    models[model] = {**ready, "source": without_home(str(ready.get("source")))}
    content["models"] = models
    content["gpu"] = next((m["device_name"] for m in models.values() if m.get("device_name") not in (None, "cpu", "mps")), None)
    content["threads"] = ready.get("threads")
    _write(run, content)


def gather(run: Path, shares: list[Path]) -> None:
    """Take over what the shares of a run say of models and devices; of all else the first one's, where the run says nothing."""
    contents = [content for content in map(read, shares) if content]
    if not contents:
        return
    before = read(run)
    content = before or {**contents[0], "shares": len(contents)}
    models = [each.get("models", {}) for each in (*contents, content)]
    content = {**content, "models": {name: about for part in models for name, about in part.items()}}
    if content != before:
        _write(run, content)


def read(run: Path) -> dict[str, Any]:
    """A run's environment.json; empty where it is not there or not whole."""
    try:
        content = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(run: Path, content: dict[str, Any]) -> None:
    write_atomic(run / "environment.json", json.dumps(plain(content), indent=1) + "\n")
