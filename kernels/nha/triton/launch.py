"""Launches a kernel, without Triton's look at every argument from the second time on.

What Triton compiles a kernel for is the arguments' types, their alignment, and the compile-time values. `launch` keeps the
kernel that Triton gave for each such combination and calls it directly, since at short lengths a step is bound by the host's
time. Numbers must be named in the kernel's `do_not_specialize`, for their values are not looked at.

    launch(nha_fwd_kernel_scan, (N, H, blocks), added, totals, M=64, D=256, num_warps=1)
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction
from triton.tools.tensor_descriptor import TensorDescriptor

# To be given where a kernel may want more: left to itself, ptxas (CUDA 12.8, as in Triton 3.6) may give one that spills
# much 32 registers, at many times the time.
ALL_REGISTERS = 255

UNIT = 8  # elements, 16 bytes at half precision
_HELD = Tensor, TensorDescriptor
_compiled: dict[tuple, tuple] = {}


def _kind(x):
    """What of an argument decides which code is compiled."""
    if x is None or isinstance(x, float):
        return type(x)
    if isinstance(x, Tensor):
        return x.dtype, x.data_ptr() % 16 == 0
    if isinstance(x, TensorDescriptor):
        return x.base.dtype, *x.block_shape
    return -(2**31) <= x < 2**31


def launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> bool:
    """Launches `kernel` on a grid of one to three dimensions; constants: compile-time arguments and Triton's options. Returns
    whether Triton had to be asked."""
    if isinstance(kernel, InterpretedFunction):
        kernel[grid](*arguments, **constants)
        return True
    device = next(x.base.device if isinstance(x, TensorDescriptor) else x.device for x in arguments if isinstance(x, _HELD))
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        # Triton launches on the current device, wherever the tensors are.
        with torch.cuda.device(device):
            return launch(kernel, grid, *arguments, **constants)
    key = _key(kernel, arguments, constants)
    known = _compiled.get(key)
    if known is None:
        _compiled[key] = kernel[grid](*arguments, **constants), _values(kernel, arguments, constants)
        return True
    compiled, values = known
    compiled[(*grid, 1, 1)[:3]](*arguments, *values)
    return False


def unit_of(*numbers: int) -> int:
    """`UNIT` where all are multiples of it, else 1. Sizes and strides in such units tell the compiler that 16 bytes can be read
    at once, though their values are not looked at."""
    return UNIT if all(number % UNIT == 0 for number in numbers) else 1


def launch_step(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """`launch` for a kernel of a decode step, which takes a flag PDL: whether it may begin while the kernel before it runs.

    That is so in CUDA graphs alone. Weights are then read before the kernel before is known to be done, and only of a graph
    that needs no gradient is it known that nothing in it writes them; outside, an optimizer's step may stand there.
    """
    if isinstance(kernel, InterpretedFunction) or not begins_early(torch.cuda.current_device()):
        launch(kernel, grid, *arguments, **constants, PDL=False)
        return
    captured = torch.cuda.is_current_stream_capturing()
    asked = launch(kernel, grid, *arguments, **constants, PDL=captured, launch_pdl=captured)
    if asked and not captured:
        _load(kernel, grid, *arguments, **constants, PDL=True, launch_pdl=True)


@lru_cache
def begins_early(device: int) -> bool:
    """Whether a GPU can start a kernel before the one before it has ended."""
    return torch.cuda.get_device_capability(device) >= (9, 0)


def _load(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Has a kernel at hand for `launch`, since CUDA loads none while a graph is captured."""
    compiled = kernel.warmup(*arguments, grid=grid, **constants)
    # A launcher is made, which has the kernel loaded, and is not called.
    _ = compiled[(*grid, 1, 1)[:3]]
    _compiled[_key(kernel, arguments, constants)] = compiled, _values(kernel, arguments, constants)


def _key(kernel, arguments: tuple, constants: dict) -> tuple:
    return (kernel, torch.cuda.current_device(), *(_kind(x) for x in arguments), *constants.values())


def _values(kernel, arguments: tuple, constants: dict) -> list:
    """The compile-time arguments in the kernel's own order; keywords come in one that is the same at each call from a place."""
    return [constants[name] for name in kernel.arg_names[len(arguments) :]]
