"""What there is on this machine, a line or more a check.

A check gives (state, text): `ok`, `note` (worth knowing, nothing to mend) or `bad`. Nothing here waits longer than a
few seconds; a check that fails in an unforeseen way is itself `bad` and does not end the others.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nha_eval import hub
from nha_eval.environment import cpu_name, physical_cores, versions, without_home
from nha_eval.errors import one_line

Finding = tuple[str, str]
LEAST_FREE_GB = 3.0  # weights, data and their conversion


def checks() -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
    """Every check by name, in the order shown."""
    return [
        ("python", _python),
        ("packages", _packages),
        ("kernels package", _kernels_package),
        ("processor", _processor),
        ("device", _device),
        ("disk", _disk),
        ("hub", _hub),
        ("weights", _weights),
    ]


def look(chosen: list[tuple[str, Callable[[], Iterator[Finding]]]] | None = None) -> Iterator[tuple[str, str, str]]:
    """Run the checks, by default all; gives (check, state, text) as they are found."""
    for name, check in chosen or checks():
        try:
            findings = list(check())
        except Exception as problem:
            findings = [("bad", one_line(problem))]
        for state, text in findings:
            yield name, state, text


def _python() -> Iterator[Finding]:
    state = "ok" if sys.version_info >= (3, 10) else "bad"
    yield (
        state,
        f"{platform.python_version()} on {platform.platform()}" + ("" if state == "ok" else ": 3.10 or newer is needed"),
    )


def _packages() -> Iterator[Finding]:
    found = versions()
    needed = ("torch", "transformers", "lm_eval", "safetensors", "numpy", "pandas", "matplotlib")
    missing = [name for name in needed if found[name] is None]
    if missing:
        yield "bad", f"not installed: {', '.join(missing)}: `make setup`, or `pip install -e .`"
    yield "ok", ", ".join(f"{name} {version}" for name, version in found.items() if version)


def _kernels_package() -> Iterator[Finding]:
    try:
        other = importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        other = None
    import kernels

    ours = Path(kernels.__file__).resolve().parent == Path(__file__).resolve().parents[2] / "kernels"
    if not ours:
        found = without_home(str(kernels.__file__))
        yield "bad", f"`import kernels` finds {found}, not this project's: `pip uninstall kernels`, then try again"
    elif other:
        yield "note", f"the hub's package `kernels` {other} is installed too; this project's comes first here"
    else:
        yield "ok", "`import kernels` is this project's"


def _processor() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    yield (
        "ok",
        f"{cpu_name()}, {physical_cores()} cores, {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GB memory free",
    )


def _device() -> Iterator[Finding]:
    import torch

    build = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            brain = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GB free"
            yield (
                "ok",
                f"cuda:{index} {torch.cuda.get_device_name(index)}, {memory}, {brain} ({build}, CUDA {torch.version.cuda})",
            )
        return
    if Path("/dev/nvidia0").exists():
        yield (
            "bad",
            f"there is an NVIDIA device, but {build} cannot use it: install a CUDA build of torch, or look at the driver",
        )
    fast = _cpu_has_bf16()
    yield "ok", f"cpu ({build}), bf16 {'in hardware' if fast else 'emulated: prefer --dtype float32'}"


def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine() == "arm64"
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))


def _disk() -> Iterator[Finding]:
    from models.assets import cache_dir

    for what, folder in (("cache", Path(cache_dir())), ("here", Path.cwd())):
        standing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(standing).free / 2**30
        text = f"{what}: {without_home(str(folder))}, {free:.1f} GB free"
        if not os.access(standing, os.W_OK):
            yield "bad" if what == "cache" else "note", f"{text}, cannot be written"
        elif free < LEAST_FREE_GB:
            yield "bad", f"{text}: {LEAST_FREE_GB:.0f} GB are wanted"
        else:
            yield "ok", text


def _hub() -> Iterator[Finding]:
    began = time.monotonic()
    there, word = hub.reachable()
    if there:
        yield "ok", f"reachable ({word}, {time.monotonic() - began:.1f} s)"
    else:
        yield (
            "note",
            f"not reachable ({word}): models and tasks from the hub will be unavailable, the local suites are not touched",
        )


def _weights() -> Iterator[Finding]:
    from models.assets import cached
    from models.patterns import kept_names, preset_names
    from nha_eval.catalog import describe_preset
    from nha_eval.fetching import known_assets

    known = known_assets()
    shipped = kept_names()
    kept: dict[str, list[str]] = {"made here from a seed": [], "in the cache": [], "fetched when first used": []}
    if shipped:
        kept["in results/checkpoints"] = shipped
    for name in sorted({*preset_names()} - {*shipped}):
        needs = describe_preset(name).needs
        there = all(cached(known[asset]) for asset in needs)
        kept["made here from a seed" if not needs else "in the cache" if there else "fetched when first used"].append(name)
    for how, names in kept.items():
        if names:
            yield ("note" if how.startswith("fetched") else "ok"), f"{', '.join(names)}: {how}"
