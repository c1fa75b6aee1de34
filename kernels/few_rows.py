"""Products of a few rows with large weights, as a decode step is made of, together with the steps that stand around them.

One sequence's step reads every weight once and does little else: its time is that of the weights' bytes, if no other kernel
stands between two products. Here a norm or an activation before a product, an activation or gate behind it, the residual
stream's addition, and several products of the same rows are one kernel. A program takes blocks of some rows of a weight, one
after the other; the few rows of x are read, and normed, by every program anew, which costs less than a kernel of its own.

Legend: R rows of x, K its width, N rows of a weight, BN of them in a block, BK columns at a time.

    q, k, v = linear(x, [wq, wk, wv], norm=(weight, 1e-6), after=[None, None, "silu"])
    x = linear(glu(x, gate, up, norm=(weight, 1e-6)), [down], residual=x)[0]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.standing import by_kernels

MOST_ROWS = 4
MOST_WEIGHTS = 4
AFTER = {None: 0, "silu": 1, "logsigmoid": 2}


def takes(x: Tensor) -> bool:
    """Whether these kernels take the rows x [..., K]: few, on a GPU, in half or single precision, and no gradient wanted."""
    if x.numel() > MOST_ROWS * x.shape[-1] or torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
        return False
    return by_kernels(x)


def linear(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    biases: Sequence[Tensor | None] | None = None,
    norm: tuple[Tensor, float] | None = None,
    before: str | None = None,
    after: Sequence[str | None] | None = None,
    divisor: float = 1.0,
    residual: Tensor | None = None,
) -> list[Tensor]:
    """f_i(W_i n(a(x)) + b_i) for each of up to four weights, plus the residual.

    Args:
        x: [..., K], at most `MOST_ROWS` rows; fp16, bf16 or fp32. Arithmetic is in fp32, and rounded once.
        weights: each [N_i, K], contiguous, in x's dtype.
        biases: for each weight [N_i] in x's dtype, or None; None: none at all.
        norm: (weight [K], eps) of an RMSNorm n before the products; None: none.
        before: "silu" for a, which comes before the norm; None: none.
        after: for each weight None, "silu", or "logsigmoid", which is divided by `divisor`.
        residual: [..., N_0], added to the only product.

    Returns:
        A tensor [..., N_i] for each weight, in x's dtype.

    Raises:
        ValueError: more rows or weights than are taken, a weight of another width or dtype, a residual of several products.
    """
    from kernels.few_rows_triton import launch_linear

    after, biases = ([None] * len(weights) if each is None else list(each) for each in (after, biases))
    _check(x, weights, residual)
    for weight, bias in zip(weights, biases, strict=True):
        if bias is not None and (bias.shape != weight.shape[:1] or bias.dtype != x.dtype):
            raise ValueError(f"a bias has shape {list(bias.shape)}, {bias.dtype}; wanted [{len(weight)}], {x.dtype}")
    outs = [x.new_empty(*x.shape[:-1], weight.shape[0]) for weight in weights]
    kinds = [AFTER[name] for name in after]
    launch_linear(x.contiguous(), weights, biases, norm, before == "silu", kinds, divisor, residual, outs)
    return outs


def glu(x: Tensor, gate: Tensor, up: Tensor, *, norm: tuple[Tensor, float] | None = None) -> Tensor:
    """silu(W_gate n(x)) W_up n(x): [..., K] -> [..., N] of two weights [N, K]; the rest as `linear`."""
    from kernels.few_rows_triton import launch_glu

    _check(x, [gate, up], None)
    if gate.shape != up.shape:
        raise ValueError(f"gate has shape {list(gate.shape)} and up {list(up.shape)}; wanted the same")
    out = x.new_empty(*x.shape[:-1], gate.shape[0])
    launch_glu(x.contiguous(), gate, up, norm, out)
    return out


def _check(x: Tensor, weights: Sequence[Tensor], residual: Tensor | None) -> None:
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    if rows > MOST_ROWS:
        raise ValueError(f"x has {rows} rows; wanted at most {MOST_ROWS}")
    if not 1 <= len(weights) <= MOST_WEIGHTS:
        raise ValueError(f"{len(weights)} weights were given; wanted 1 to {MOST_WEIGHTS}")
    for weight in weights:
        if weight.dim() != 2 or weight.shape[1] != width or weight.dtype != x.dtype or not weight.is_contiguous():
            given = f"shape {list(weight.shape)}, {weight.dtype}"
            raise ValueError(f"a weight has {given}; wanted [N, {width}], contiguous, {x.dtype}")
    if residual is not None and (len(weights) != 1 or residual.shape != (*x.shape[:-1], weights[0].shape[0])):
        raise ValueError("a residual wants one weight, and the shape of its product")
