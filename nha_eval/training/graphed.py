"""A step's forward and backward as one CUDA graph, for models whose kernels end sooner than the host can call them.

    call = graphed(objective, ids, torch.bfloat16)
    call(ids).backward()                  # ids of the same shape; what the objective says of them, and its gradients

A graph does again what it did at its capture, on the same memory: shapes, windows and whatever else the host decides stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from torch import Tensor, nn

from nha_eval.errors import is_out_of_memory, one_line


class _Loss(nn.Module):
    """The objective as a module that is called with a tensor alone."""

    def __init__(self, objective: nn.Module):
        super().__init__()
        self.objective = objective

    def forward(self, input_ids: Tensor) -> Tensor:
        # The class's own forward: that of the instance may stand in an autocast of its own, which keeps casts beyond a capture.
        return type(self.objective).forward(self.objective, input_ids)


def graphed(objective: nn.Module, input_ids: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """`objective(input_ids)` captured with its backward, arithmetic in `dtype` where that is not fp32: called with ids of the
    shape of input_ids [B, T], it gives the loss, which is overwritten by the next call, as are its gradients.

    Gradients are those of one call: they cannot be added up over several.
    """
    loss = _Loss(objective).train(objective.training)
    with torch.autocast(input_ids.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        # Some of what takes gradients may have no part in this loss, as LoRA of full layers has none in alignment.
        return torch.cuda.make_graphed_callables(loss, (input_ids.clone(),), allow_unused_input=True)


@contextmanager
def as_it_was(device: torch.device) -> Iterator[None]:
    """Leaves the stream that is current, and after a failure the random numbers' state, as they were: a capture that fails
    leaves its own stream, and a generator that takes itself to be in it. Graphs captured before go on with the old state."""
    if device.type != "cuda":
        yield
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    numbers = torch.cuda.default_generators[index]
    before = numbers.clone_state()
    with torch.cuda.stream(torch.cuda.current_stream(device)):
        try:
            yield
        except BaseException:
            numbers.graphsafe_set_state(before)
            raise


def why_not(problem: BaseException) -> str:
    """What a capture broke on, in a line; out of memory is raised. Ending a capture that was broken raises an error of its own,
    which names no cause: what was raised first does."""
    while (before := problem.__cause__ or problem.__context__) is not None:
        problem = before
    if is_out_of_memory(problem):
        raise problem from None
    return one_line(problem, 200)


def captured(objective: nn.Module, input_ids: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """`graphed`; or None, with a line that says why, where something in the step cannot be captured. Out of memory is raised.

    A mixer that runs on another library's kernels may be such.
    """
    try:
        with as_it_was(input_ids.device):
            return graphed(objective, input_ids, dtype)
    except Exception as problem:
        why = why_not(problem)
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"steps are called from Python: {why}", markup=False)
    return None
