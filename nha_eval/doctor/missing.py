"""What this machine lacks for its models to run as they were meant to, and the command that brings it."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

HOPPER = 9
# Between these its gated backward kernel gives wrong gradients on Hopper (fla-org/flash-linear-attention#640).
WRONG_FROM, RIGHT_FROM = Version("3.4.0"), Version("3.7.1")
EXTRA = "pip install -e '.[gpu]'"


@dataclass(frozen=True)
class Missing:
    """A package, what goes without it, and the command."""

    package: str
    what: str
    command: str


def missing(versions: dict[str, str | None], capability: int | None, nvcc: bool) -> list[Missing]:
    """What is missing for a GPU of major compute capability `capability` (None: no GPU, for which nothing is), with the
    installed `versions` (a name without one is not installed); nvcc: whether the CUDA compiler is there."""
    if capability is None:
        return []
    found = []
    if not versions.get("triton"):
        found.append(Missing("triton", "nha, gsa and sliding windows run in plain torch, many times slower", EXTRA))
    lacking = [name for name in ("fla-core", "einops") if not versions.get(name)]
    if lacking:
        what = "gla, gated_deltanet and mamba2 run in plain torch, many times slower"
        found.append(Missing(" and ".join(lacking), what, EXTRA))
    elif versions.get("triton") and capability == HOPPER and WRONG_FROM <= Version(versions["triton"]) < RIGHT_FROM:
        what = f"training gated_deltanet and mamba2 is refused on this GPU with triton {versions['triton']}"
        if not versions.get("tilelang"):
            found.append(Missing("tilelang", what, "pip install tilelang"))
        if not nvcc:
            found.append(Missing("nvcc", f"{what}, and tilelang compiles with it", "pip install 'nvidia-cuda-nvcc>=13'"))
    if not versions.get("flash-attn"):
        found.append(Missing("flash-attn", "`bench op` goes without this peer", "pip install flash-attn --no-build-isolation"))
    return found
