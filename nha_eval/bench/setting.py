"""A case made ready: inputs from a seed, and the one call that checking, memory and timing share.

with set_up(case, Draw(seed, device, dtype)) as work:
    work.call()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nha_eval.bench import implementations
from nha_eval.bench.grid import Case

COLD = 2  # times the level-2 cache that the rotated states fill


class Draw:
    """Random tensors on a device, the same for the same seed and order of asking. Logits of q and k drawn by `normal` have
    a deviation of about 1 at the usual scale.
    """

    def __init__(self, seed: int, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator(device).manual_seed(seed)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values."""
        return torch.randn(*shape, generator=self._generator, device=self.device, dtype=self.dtype)

    def tokens(self, vocabulary: int, *shape: int) -> Tensor:
        """Token ids below `vocabulary`."""
        return torch.randint(vocabulary, shape, generator=self._generator, device=self.device)

    def unit(self, *shape: int) -> Tensor:
        """Random directions: the last dimension has length 1."""
        return torch.nn.functional.normalize(self.normal(*shape), dim=-1)

    def log_decay(self, *shape: int, over: float) -> Tensor:
        """Log decays as trained layers start with: logsigmoid of normal values over `over`."""
        drawn = torch.randn(*shape, generator=self._generator, device=self.device)
        return (torch.nn.functional.logsigmoid(drawn) / over).to(self.dtype)


@dataclass
class Work:
    """`call()` makes `steps` calls of the operator; `grads` are the tensors whose gradients it makes."""

    call: Callable[[], Any]
    backend: str
    note: str
    steps: int = 1
    grads: list[Tensor] = field(default_factory=list)

    def forget(self) -> None:
        """Set the gradients to None."""
        for tensor in self.grads:
            tensor.grad = None


@contextmanager
def set_up(case: Case, draw: Draw) -> Iterator[Work]:
    """The case's Work, in whose context it must be called. Whatever the implementation raises comes through."""
    module = implementations.find(case.implementation)
    with torch.set_grad_enabled(case.backward):
        if case.phase == "decode":
            step = module.decode(case, draw)
            with step.context():
                yield _decoding(step, draw.device)
            return
        made = module.forward(case, draw)
        with made.context():
            if not case.backward:
                yield Work(lambda: made.run(**made.inputs), made.backend, made.note)
                return
            leaves = [tensor.requires_grad_() for tensor in made.inputs.values()]
            d_out = draw.normal(*made.inputs["q"].shape[:-1], case.shape.value_dim)
            yield Work(lambda: made.run(**made.inputs).backward(d_out), made.backend, made.note, grads=leaves)


def _decoding(step: implementations.Step, device: torch.device) -> Work:
    """A token for each of enough states that none is left in the GPU's cache when its turn comes again."""
    copies = 1
    if device.type == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        copies = max(1, -(-COLD * cache // step.state_bytes))
        cold = f"{copies} states in turn, {copies * step.state_bytes / cache:.1f} times the L2 cache, which is flushed before"
        note = f"cold cache: {cold}; {step.note}"
    else:
        note = f"warm cache; {step.note}"
    states = [step.new_state() for _ in range(copies)]

    def call() -> None:
        for state in states:
            step.run(state, **step.inputs)

    return Work(call, step.backend, note, copies)
