"""silu(gate) * up, the product of a SwiGLU MLP between its projections.

On a GPU it is one kernel each way, where torch takes two forward and three backward, and keeps the activation beside gate and
up. What torch compiles is left to the compiler, which joins them itself.

    from kernels.glu import swiglu
    y = down_proj(swiglu(gate_proj(x), up_proj(x)))
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kernels.standing import by_kernels


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up of two tensors of one shape, whatever it is; in their dtype, or in what torch makes of two.

    In fp16, bf16 or fp32 on a GPU arithmetic is in fp32 and rounded once, the result is contiguous, gate and up are all that is
    kept for the gradients, and these have none themselves. ValueError where the shapes differ.
    """
    if gate.shape != up.shape:
        raise ValueError(f"gate has shape {list(gate.shape)} and up {list(up.shape)}; wanted the same")
    if gate.dtype == up.dtype and by_kernels(gate):
        from kernels.glu_triton import product

        return product(gate, up)
    return F.silu(gate) * up
