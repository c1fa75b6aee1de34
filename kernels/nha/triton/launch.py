"""Launches a kernel, without Triton's look at every argument from the second time on.

What Triton compiles a kernel for is the arguments' types, their alignment, and the compile-time values. `launch` keeps the
kernel that Triton gave for each such combination and calls it directly, since at short lengths a step is bound by the host's
time. Numbers must be named in the kernel's `do_not_specialize`, for their values are not looked at.

    launch(nha_fwd_kernel_scan, (N, H, blocks), added, totals, M=64, D=256, num_warps=1)
"""

from __future__ import annotations

import torch
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction
from triton.tools.tensor_descriptor import TensorDescriptor

# To be given where a kernel may want more: left to itself, ptxas (CUDA 12.8, as in Triton 3.6) may give one that spills
# much 32 registers, at many times the time.
ALL_REGISTERS = 255

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


def launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Launches `kernel` on a grid of one to three dimensions; constants: compile-time arguments and Triton's options."""
    if isinstance(kernel, InterpretedFunction):
        kernel[grid](*arguments, **constants)
        return
    key = (kernel, torch.cuda.current_device(), *(_kind(x) for x in arguments), *constants.values())
    known = _compiled.get(key)
    if known is None:
        # Keywords come in an order that is the same at each call from one place.
        values = [constants[name] for name in kernel.arg_names[len(arguments) :]]
        _compiled[key] = kernel[grid](*arguments, **constants), values
        return
    compiled, values = known
    compiled[(*grid, 1, 1)[:3]](*arguments, *values)
