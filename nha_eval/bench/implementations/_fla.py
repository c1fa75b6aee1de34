"""What the peers of flash-linear-attention share."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec


def refusal(device) -> str | None:
    """Why flash-linear-attention's kernels cannot be had here, or None."""
    if device.type != "cuda":
        return "flash-linear-attention's kernels want a CUDA device"
    missing = [package for package in ("fla", "triton", "einops") if find_spec(package) is None]
    if missing:
        names = {"fla": "fla-core"}
        return f"not installed: {', '.join(names.get(package, package) for package in missing)} (`pip install .[gpu]`)"
    return None


def backend() -> str:
    """`fla-core` and its version."""
    try:
        return f"fla-core {version('fla-core')}"
    except PackageNotFoundError:
        return "fla-core"


def heads_note(shape, draw) -> str:
    """What was done about grouped queries, for the row."""
    repeated = "" if shape.query_heads == shape.kv_heads else f"; k, v and gates given for all {shape.query_heads} query heads"
    return f"g in {draw.dtype_name}{repeated}"
