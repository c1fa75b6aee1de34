"""What is measured, one file an implementation, found by its name (`sdpa_cudnn.py` is `sdpa-cudnn`). To add one, add its
file, with

    WINDOWS      "sliding" (measured at every window), "full" (causal attention over everything) or "none"
    PHASES       of `grid.PHASES`, those it can do
    COUNT        a function of `counts`: what the operator needs
    refusal(device, dtype, case)   why it cannot be had here, or None; imports nothing that may be missing
    forward(case, draw) -> Call    for every phase but decode
    decode(case, draw) -> Step     where PHASES has decode
    UNAVAILABLE  (optional) parts of messages by which it says, once called, that it cannot do this here
    COMPILES     (optional) "once" for all lengths, each of its "lengths", or "tunes": Triton's autotuner chooses at the first
                 call, whose length should then be a usual one

Legend: B batch, T time, HQ query heads, H key-value heads, K, V head dimensions, M slots. Tensors are [B, T, heads, dim].
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Call:
    """A pass over whole sequences: `run(**inputs)` is what is timed, `define(**inputs)` the same by other means, called
    with fp32 inputs; both give [B, T, HQ, V]. `context` is entered around all calls.
    """

    inputs: dict[str, Tensor]
    run: Callable[..., Tensor]
    define: Callable[..., Tensor]
    backend: str
    note: str = ""
    context: Callable[[], AbstractContextManager] = field(default=contextlib.nullcontext)


@dataclass
class Step:
    """One token from a state: `run(state, **inputs)` is timed, `define()` gives the same token's output [B, 1, HQ, V] in
    fp32 by other means, `new_state()` a copy of the state that shares no memory with any other, of `state_bytes` bytes.
    """

    inputs: dict[str, Tensor]
    new_state: Callable[[], Any]
    run: Callable[..., Tensor]
    define: Callable[[], Tensor]
    state_bytes: int
    backend: str
    note: str = ""
    context: Callable[[], AbstractContextManager] = field(default=contextlib.nullcontext)


@lru_cache
def names() -> tuple[str, ...]:
    """Every implementation by name, the operator itself first."""
    found = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return tuple(name.replace("_", "-") for name in sorted(found, key=lambda name: (name != "nha", name)))


@lru_cache
def find(name: str) -> ModuleType:
    """The module of an implementation that `names` lists. Imports no torch."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
