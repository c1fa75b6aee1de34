"""A call of the operator on a GPU against its definition in chunks, in fp64: outputs, state and every gradient.

Error metric: RMS(difference) / RMS(reference), or for a gradient that is the small difference of two, over the size of these.
"""

from functools import partial

import torch
from nha_cases import Case, relative_error

from kernels import nha_attention

# (forward, backward, a gradient over what it is a difference of)
BOUNDS = {torch.bfloat16: (4e-3, 1.5e-2, 6e-3), torch.float16: (1e-3, 4e-3, 2e-3), torch.float32: (1e-5, 1e-4, 1e-5)}


def answers(x: dict, options: dict, backend: str, dtype: torch.dtype) -> tuple[dict, dict]:
    """(outputs and gradients, gradients of the numerator alone): an output is a sum of exp(logit) times values over a sum of
    exp(logit), and where both change alike their difference, the gradient, is as rough as they are."""
    x = {name: t.detach().clone().to(dtype).requires_grad_() for name, t in x.items()}
    options = options | {name: tuple(t.to(dtype) for t in options[name]) for name in ("rotary",) if name in options}
    with_lse = backend == "chunked"
    out, state, *lse = nha_attention(**x, **options, backend=backend, return_state=True, return_lse=with_lse)
    up = 2 * out.detach()
    found = {"out": out.detach(), "slot_k": state.slot_k.detach()}
    gradients = partial(
        torch.autograd.grad, inputs=list(x.values()), grad_outputs=up, retain_graph=True, materialize_grads=True
    )
    found |= {f"d{name}": t for name, t in zip(x, gradients(out), strict=True)}
    if not with_lse:
        return found, {}
    mass = torch.logaddexp(*(part.clamp(min=-1e30) for part in lse[0]))
    numerator = out * (mass - mass.detach()).exp().unsqueeze(-1)
    return found, {f"d{name}": t for name, t in zip(x, gradients(numerator), strict=True)}


def check_on_a_gpu(case: Case, dtype: torch.dtype, seed: int) -> None:
    """The Triton form within its bounds, and the same bits twice."""
    x, options = case.inputs(torch.float32, seed=seed)
    # Rounded once, for both.
    x = {name: t.to("cuda", dtype) for name, t in x.items()}
    if "rotary" in options:
        options["rotary"] = tuple(t.to("cuda", dtype) for t in options["rotary"])
    if "cu_seqlens" in options:
        options["cu_seqlens"] = options["cu_seqlens"].to("cuda")
    wanted, numerator = answers(x, options, "chunked", torch.float64)
    found, _ = answers(x, options, "triton", dtype)
    again, _ = answers(x, options, "triton", dtype)
    # The rounding of one logit is averaged away by others, where there are others.
    forward, backward, rough = (bound * (2 if case.time < 16 else 1) for bound in BOUNDS[dtype])
    for name, t in found.items():
        assert torch.equal(t, again[name]), f"{name} differs from run to run"
        if name in numerator and relative_error(t, wanted[name]) > backward:
            assert (t - wanted[name]).norm() <= rough * numerator[name].norm(), name
        else:
            assert relative_error(t, wanted[name]) <= (backward if name in numerator else forward), name
