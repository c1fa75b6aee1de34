"""What `backend="auto"` stands for inside a block, so that a whole model can be run by the operators' definitions.

A backend named at a call is honoured all the same. It holds for the process, threads included: it is for checks, which
compare, and for nothing that serves.

    from kernels.standing import auto_backend
    with auto_backend("recurrent"):
        wanted = model(input_ids).logits
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
# Forms that every operator has on every device.
EVERYWHERE = ("recurrent", "chunked")
_standing: str | None = None


@contextmanager
def auto_backend(name: str) -> Iterator[None]:
    """Inside, "auto" is `name`, "recurrent" or "chunked". ValueError for another."""
    global _standing
    if name not in EVERYWHERE:
        raise ValueError(f"backend is {name!r}; wanted one of {', '.join(map(repr, EVERYWHERE))}")
    before, _standing = _standing, name
    try:
        yield
    finally:
        _standing = before


def standing(backend: str) -> str:
    """`backend` as it is to be taken here: "auto" may stand for another."""
    return _standing if backend == "auto" and _standing is not None else backend


def by_kernels(x: Tensor) -> bool:
    """Whether Triton kernels may stand for torch's own operations on x: on a GPU or interpreted, in half or single precision,
    neither compiled by torch nor where a definition stands for "auto"."""
    if not HAS_TRITON or x.dtype == torch.float64 or standing("auto") != "auto" or torch.compiler.is_compiling():
        return False
    return x.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
