"""The recurrent mixers against Transformers' own modules of the same architectures, with the same weights."""

import inspect

import pytest
import torch
from tiny import close
from transformers import Mamba2Config
from transformers.models.mamba2 import modeling_mamba2 as mamba2
from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next
from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig

from models import NHAConfig
from models.batch import Batch
from models.mixers import mixer_class

HIDDEN, ROWS, LENGTHS = 32, 2, (1, 7, 70)


def batch(length: int) -> Batch:
    angles = torch.zeros(ROWS, length, 4)
    return Batch(angles, angles, 0, length)


def ours(name: str, options: dict):
    config = NHAConfig(hidden_size=HIDDEN, num_hidden_layers=1, mixers=name, mixer_options={name: options}, rms_norm_eps=1e-5)
    torch.manual_seed(0)
    return mixer_class(name)(config, 0)


def hidden(length: int) -> torch.Tensor:
    return torch.randn(ROWS, length, HIDDEN, generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.skipif(
    "group_size" not in inspect.signature(mamba2.MambaRMSNormGated).parameters, reason="norms over all groups at once: repaired"
)
@torch.no_grad()
def test_mamba2_is_transformers_mamba2(length, groups):
    mine = ours("mamba2", {"head_dim": 16, "state_size": 8, "n_groups": groups})
    theirs = mamba2.Mamba2Mixer(
        Mamba2Config(
            hidden_size=HIDDEN, num_heads=4, head_dim=16, state_size=8, n_groups=groups, expand=2, conv_kernel=4, chunk_size=16,
            layer_norm_epsilon=1e-5,
        ),
        layer_idx=0,
    )  # fmt: skip
    theirs.load_state_dict(mine.state_dict())
    x = hidden(length)
    close(mine(x, batch(length)), theirs(x))


@pytest.mark.parametrize("length", LENGTHS)
@torch.no_grad()
def test_gated_deltanet_is_qwen3_nexts(length, monkeypatch):
    # It would take a GPU's kernels, because flash-linear-attention is installed; its own plain form lies behind.
    plain = inspect.unwrap(qwen3_next.torch_chunk_gated_delta_rule)
    monkeypatch.setattr(qwen3_next, "torch_chunk_gated_delta_rule", plain)
    heads, keys, values = 2, 8, 16
    mine = ours("gated_deltanet", {"num_heads": heads, "head_dim": keys, "expand_v": values / keys})
    theirs = qwen3_next.Qwen3NextGatedDeltaNet(
        Qwen3NextConfig(
            hidden_size=HIDDEN, linear_num_key_heads=heads, linear_num_value_heads=heads, linear_key_head_dim=keys,
            linear_value_head_dim=values, linear_conv_kernel_dim=4, rms_norm_eps=1e-5, hidden_act="silu",
        ),
        layer_idx=0,
    ).eval()  # fmt: skip
    of = mine.state_dict()
    # Theirs keeps the rows of a head's q, k, v and gate together, and those of its beta and step.
    by_head = [of[f"{name}_proj.weight"].unflatten(0, (heads, -1)) for name in "qkvg"]
    theirs.in_proj_qkvz.weight.copy_(torch.cat(by_head, 1).flatten(0, 1))
    by_head = [of[f"{name}_proj.weight"].unflatten(0, (heads, -1)) for name in "ba"]
    theirs.in_proj_ba.weight.copy_(torch.cat(by_head, 1).flatten(0, 1))
    theirs.conv1d.weight.copy_(torch.cat([of[f"{name}_conv1d.weight"] for name in "qkv"]))
    theirs.A_log.copy_(of["A_log"])
    theirs.dt_bias.copy_(of["dt_bias"])
    theirs.norm.weight.copy_(of["o_norm.weight"])
    theirs.out_proj.weight.copy_(of["o_proj.weight"])
    x = hidden(length)
    close(mine(x, batch(length)), theirs(x))


@pytest.mark.parametrize("name", ["gla", "gated_deltanet", "mamba2"])
def test_an_unknown_option_is_named(name):
    with pytest.raises(ValueError, match="no_such"):
        ours(name, {"no_such": 1})
