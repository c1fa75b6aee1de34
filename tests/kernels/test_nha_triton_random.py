"""The Triton form on a GPU: a thousand random calls without a failure, and the same bits each time.

What decides a kernel's code (heads, dimensions, options) comes from a fixed list, so that compiling ends; lengths, layouts,
gates and numbers are drawn. Outputs and gradients are held to the definition in chunks, in fp64.
"""

import importlib.util
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nha_cases import pairwise_cases, relative_error

from kernels import nha_attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
]

KINDS = pairwise_cases(
    time=[1],
    window=[64, 0, 16, 100, 300],
    slots=[64, 32, 17],
    group=[4, 1, 3],
    slot_delay=[None, 0],
    layout=["batch", "packed"],
    strength=[1.0],
    heads=[2],
    key_dim=[128, 64],
    value_dim=[128, 64],
)
# The streamed form takes keys as wide as values.
KINDS = list(dict.fromkeys([*KINDS, *(replace(kind, value_dim=kind.key_dim) for kind in KINDS if kind.slots != 17)]))
EXAMPLES = -(-1000 // len(KINDS))
FORWARD, BACKWARD, NUMERATOR = 4e-3, 1.5e-2, 6e-3  # bf16, relative L2


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


# A test a kind, so that several processes can share them.
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind}-K{kind.key_dim}-V{kind.value_dim}")
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    time=st.integers(1, 700),
    strength=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
def test_random_calls(kind, time, strength, seed):
    case = replace(kind, time=time, strength=strength)
    x, options = case.inputs(torch.float32, seed=seed)
    # Rounded once, for both.
    x = {name: t.to("cuda", torch.bfloat16) for name, t in x.items()}
    if "rotary" in options:
        options["rotary"] = tuple(t.to("cuda", torch.bfloat16) for t in options["rotary"])
    if "cu_seqlens" in options:
        options["cu_seqlens"] = options["cu_seqlens"].to("cuda")
    wanted, numerator = answers(x, options, "chunked", torch.float64)
    found, _ = answers(x, options, "triton", torch.bfloat16)
    again, _ = answers(x, options, "triton", torch.bfloat16)
    # The rounding of one logit is averaged away by others, where there are others.
    slack = 2 if time < 16 else 1
    for name, t in found.items():
        assert torch.equal(t, again[name]), f"{name} differs from run to run"
        if name in numerator and relative_error(t, wanted[name]) > slack * BACKWARD:
            assert (t - wanted[name]).norm() <= slack * NUMERATOR * numerator[name].norm(), name
        else:
            assert relative_error(t, wanted[name]) <= slack * (BACKWARD if name in numerator else FORWARD), name
