"""Where a bench runs: its device and dtype, what must not change within a folder, and what environment.json says.

device, dtype = resolve_device("auto", "auto")
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from nha_eval.environment import command_line, describe, source_digest
from nha_eval.errors import MachineError, UserError, one_line
from nha_eval.ranks import launched

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# Of what a process could still have on a CPU; the last bytes belong to the system.
USABLE = 0.9


def resolve_device(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a run; `auto` is the GPU where there is one and bf16 there, fp32 on a CPU. Of several processes of a
    launcher each has the GPU of its LOCAL_RANK. UserError for what cannot be had.
    """
    by = launched()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cuda", "cpu") or (chosen.type == "cpu" and chosen.index is not None):
        raise UserError(f"device {device!r}: wanted is auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and chosen.index is not None and by is not None:
        raise UserError(f"device {device!r}: the launcher gives each process a GPU; wanted is auto or cuda")
    if chosen.type == "cuda":
        chosen = torch.device("cuda", chosen.index or (int(by.gpu) if by else 0))
    if chosen.type == "cuda" and chosen.index >= torch.cuda.device_count():
        raise UserError(f"device {device!r}: GPUs that torch can use here: {torch.cuda.device_count()}; give --device cpu")
    if dtype == "auto":
        dtype = "bfloat16" if chosen.type == "cuda" else "float32"
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: wanted is auto, {', '.join(DTYPES)}")
    return chosen, DTYPES[dtype]


def device_name(device: torch.device) -> str:
    """The GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def dtype_name(dtype: torch.dtype) -> str:
    """As tables write it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def healthy(device: torch.device) -> None:
    """Raises MachineError when the GPU takes no more work: an illegal access leaves it so until the process ends."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except Exception as problem:
        raise MachineError(
            f"the GPU takes no more work after the last row ({one_line(problem, 120)}); the same command goes on after it"
        ) from problem


def free_bytes(device: torch.device) -> int:
    """What may still be allocated: on a GPU what is free, with what torch keeps without using it; on a CPU what the system,
    and the container's limit, would give.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            free = min(free, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return max(0, int(USABLE * free))


@contextmanager
def bounded_memory(device: torch.device) -> Iterator[None]:
    """On a CPU an allocation beyond what is free fails inside, as on a GPU, where the system would end the process instead.
    Systems without such limits run without."""
    try:
        import resource
    except ImportError:
        resource = None
    if device.type != "cpu" or resource is None:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + free_bytes(device)
    limit = min([limit, *(own for own in before if own != resource.RLIM_INFINITY)])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def identity(device: torch.device, seed: int, packages: tuple[str, ...], sources: str) -> dict[str, Any]:
    """What must be the same for rows to stand in one table; `sources` is a `digest`."""
    return {
        "device": device_name(device),
        "seed": seed,
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "sources": sources,
    }


def digest(*folders: str) -> str:
    """Twelve hex digits of the Python files under these folders of the project."""
    return source_digest(*folders)[:12]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment(device: torch.device, dtype: torch.dtype, seed: int, **settings: Any) -> dict[str, Any]:
    """environment.json: date, command, versions, machine, and the run's own settings."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        **describe(),
        "gpu": None
        if gpu is None
        else {"name": gpu.name, "memory_gb": gpu.total_memory / 2**30, "l2_bytes": gpu.L2_cache_size},
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "device": str(device),
        "dtype": dtype_name(dtype),
        **settings,
    }
