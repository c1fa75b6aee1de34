"""What a decode step begins with, against Transformers' own angles, interpreted without a GPU as in `interpreting`."""

import importlib.util

import pytest
import torch
from nha_cases import over
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
SCALED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "rope_theta": 1e4}
KINDS = {"plain": {"rope_type": "default", "rope_theta": 1e4}, "scaled": SCALED}


def started(kind: str, dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """Largest differences of the angles, and the number of places in the mask that are not as wanted."""
    from kernels.step_start_triton import start_step

    config = LlamaConfig(hidden_size=96, num_attention_heads=2, head_dim=48, rope_parameters=KINDS[kind])
    turns = LlamaRotaryEmbedding(config).to(device)
    seen = torch.tensor([0, 7, 100_003], device=device)
    filled, mask = torch.tensor(5, device=device), torch.zeros(3, 9, dtype=torch.bool, device=device)
    found = start_step(seen, filled, mask, turns.inv_freq, turns.attention_scaling, dtype)
    wanted = turns(torch.zeros(1, dtype=dtype, device=device), seen[:, None])
    right = torch.arange(9, device=device).eq(5).expand(3, -1)
    full = mask.clone()
    start_step(seen, filled + 4, full, turns.inv_freq, turns.attention_scaling, dtype)
    apart = {
        name: float((x.double() - y[..., :24].double()).abs().max()) for name, x, y in zip("cs", found, wanted, strict=True)
    }
    return apart | {"marked": int((mask != right).sum()), "beyond": int((full != mask).sum())}


@pytest.mark.parametrize("interpreted", [(started, kind, torch.float32) for kind in KINDS], ids=lambda x: x[1])
def test_angles_and_places(interpreted, answers):
    found = answers[interpreted].result()
    assert not over(found, 1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_angles_and_places_on_a_gpu(kind, dtype, bound):
    found = started(kind, dtype, "cuda")
    assert not over(found, bound)
