"""The doctor's verdicts on mixers, kept so that a run can be stamped with them and need not wait for the doctor.

A verdict holds for what it was found on: the device, the versions of the packages that compute, and the sources of
`kernels`, `models` and the doctor. These make the key under which it lies in the cache folder (`doctor/KEY.json`); anything
else has no verdict, and what was run there is stamped `not run`.

    remember("cpu: AMD EPYC", {"nha": {...}})
    stamp("cpu: AMD EPYC", ["nha", "gla"])     # "mixers": {"nha": {"verdict": "passed", ...}, "gla": {"verdict": "not run"}}
"""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nha_eval import environment
from nha_eval.environment import commit, cpu_name, versions
from nha_eval.journal import plain, write_atomic

NOT_RUN = "not run"
COMPUTE = ("torch", "transformers", "triton", "fla-core", "einops", "tilelang")
SOURCES = ("kernels", "models", "nha_eval/doctor")
KEPT = 50  # verdicts; the oldest go


def device_label(device: Any) -> str:
    """What a torch device is, in words that change with what it computes."""
    if device.type != "cuda":
        return f"{device.type}: {cpu_name()}"
    import torch

    return torch.cuda.get_device_name(device)


def subject(device: str) -> dict[str, Any]:
    """What a verdict holds for: device (as `device_label`), versions, and a digest of the sources."""
    found = versions()
    computing = {name: found[name] for name in COMPUTE}
    return {"device": device, "versions": {"python": platform.python_version(), **computing}, "source": source_digest()}


def source_digest(root: Path = environment.ROOT) -> str:
    """16 hex digits over the Python files of SOURCES, by default in this installation."""
    return environment.source_digest(*SOURCES, root=root)[:16]


def remember(device: str, mixers: dict[str, dict[str, Any]]) -> Path:
    """Keep these mixers' verdicts (`Result.as_dict`), with date and commit, beside those of others on the same subject.

    Raises OSError, or MachineError for a full disk, where the cache folder cannot be written.
    """
    about = subject(device)
    path = _path(about)
    when = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **commit()}
    held = {**_mixers(path), **{name: {**verdict, **when} for name, verdict in mixers.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(plain({**about, "mixers": held}), indent=1) + "\n")
    for old in sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def stamp(device: str, mixers: list[str]) -> dict[str, Any]:
    """The subject, and each of these mixers' verdict on it, `not run` where there is none."""
    about = subject(device)
    held = _mixers(_path(about))
    return {**about, "mixers": {name: held.get(name, {"verdict": NOT_RUN}) for name in mixers}}


def _path(about: dict[str, Any]) -> Path:
    from models.assets import cache_dir

    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "doctor" / f"{key}.json"


def _mixers(path: Path) -> dict[str, dict[str, Any]]:
    """What a file holds; nothing where it is not there or broken."""
    try:
        mixers = json.loads(path.read_text(encoding="utf-8"))["mixers"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(mixers, dict):
        return {}
    return {name: verdict for name, verdict in mixers.items() if isinstance(verdict, dict) and "verdict" in verdict}
