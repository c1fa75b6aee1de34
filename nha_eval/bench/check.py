"""Nothing is timed before it is right: an implementation against its own definition in fp32, at a short length.

Errors are RMS of the difference over RMS of what is wanted, of the output and of each gradient.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nha_eval.bench import implementations
from nha_eval.bench.grid import Case
from nha_eval.bench.setting import Draw

# Largest errors of (output, gradients). Products of fp32 may be tf32's on a GPU; gradients of gates are differences of sums.
LIMITS = {
    torch.bfloat16: (2e-2, 5e-2),
    torch.float16: (1e-2, 3e-2),
    torch.float32: (2e-3, 5e-3),
}


class WrongResult(RuntimeError):
    """The implementation gives something else than its definition."""


def small(case: Case) -> Case:
    """The case that is checked in its place: of more tokens than its window, in whole blocks, and of fewer sequences where
    there are many; packed ones share out twice as many tokens.
    """
    length = max(256, 128 * -(-((case.window or 0) + 128) // 128))
    if case.packed:
        return replace(case, length=2 * length, batch=1)
    return replace(case, length=length, batch=min(case.batch, 4))


def check(case: Case, draw: Draw) -> None:
    """Compare the `small` case. Raises WrongResult, and lets through what the implementation raises."""
    case = small(case)
    module = implementations.find(case.implementation)
    limit, gradient_limit = LIMITS[draw.dtype]
    if case.phase == "decode":
        with torch.no_grad():
            step = module.decode(case, draw)
            with step.context():
                given = step.run(step.new_state(), **step.inputs)
            _compare("the decoded token", given, step.define(), limit)
        return
    with torch.set_grad_enabled(case.backward):
        made = module.forward(case, draw)
        exact = {name: tensor.float().requires_grad_(case.backward) for name, tensor in made.inputs.items()}
        given = {name: tensor.requires_grad_(case.backward) for name, tensor in made.inputs.items()}
        with made.context():
            out = made.run(**given)
            d_out = draw.normal(*out.shape)
            grads = torch.autograd.grad(out, list(given.values()), d_out) if case.backward else ()
        wanted = made.define(**exact)
        _compare("the output", out, wanted, limit)
        if case.backward:
            wanted_grads = torch.autograd.grad(wanted, list(exact.values()), d_out.float())
            for name, grad, wanted_grad in zip(exact, grads, wanted_grads, strict=True):
                _compare(f"the gradient of {name}", grad, wanted_grad, gradient_limit)


def _compare(what: str, given: Tensor, wanted: Tensor, limit: float) -> None:
    if given.shape != wanted.shape:
        raise WrongResult(f"{what} has shape {list(given.shape)}; wanted {list(wanted.shape)}; not timed")
    given, wanted = given.detach().float(), wanted.detach()
    error = float((given - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt())
    # A NaN is no smaller than anything.
    if not error <= limit:
        raise WrongResult(f"{what} differs from its definition: relative error {error:.1e}, wanted <= {limit:g}; not timed")
