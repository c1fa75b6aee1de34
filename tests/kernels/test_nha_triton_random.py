"""The Triton form on a GPU: a thousand random calls without a failure, and the same bits each time.

What decides a kernel's code (heads, dimensions, options) comes from a fixed list, so that compiling ends; lengths, layouts,
gates and numbers are drawn. Outputs and gradients are held to the definition in chunks, in fp64.
"""

import importlib.util
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nha_answers import check_on_a_gpu
from nha_cases import pairwise_cases

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


# A test a kind, so that several processes can share them.
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind}-K{kind.key_dim}-V{kind.value_dim}")
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    time=st.integers(1, 700),
    strength=st.sampled_from([0.01, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
def test_random_calls(kind, time, strength, seed):
    check_on_a_gpu(replace(kind, time=time, strength=strength), torch.bfloat16, seed)
