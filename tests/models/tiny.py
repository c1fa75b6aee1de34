"""Tiny models with random weights, one a mixer, for the contract tests."""

import torch

from models import NHAConfig, NHAForCausalLM
from models.mixers import mixer_class, mixer_names

FIELDS = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_slots": 8,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
    "mixer_options": {
        "gla": {"num_heads": 2, "gate_low_rank_dim": 8},
        "gated_deltanet": {"num_heads": 2, "head_dim": 8},
        "mamba2": {"head_dim": 16, "state_size": 8, "n_groups": 2},
    },
}


def settings() -> dict[str, dict]:
    """Every mixer that exists as a file, at each kind of window it has; and the options of the slots."""
    found = {}
    for name in mixer_names():
        found[name] = {"mixers": name}
        if mixer_class(name).has_window:
            found[f"{name}-w7"] = {"mixers": name, "windows": 7}
    found["nha-w0"] = {"mixers": "nha", "windows": 0}
    found["nha-overlap-sink"] = {"mixers": "nha", "windows": 5, "slot_overlap": True, "empty_slots": "sink"}
    layer = {"value_activation": "silu", "output_activation": "silu", "output_norm": True, "feature_map": "silu"}
    found["nha-paper"] = {"mixers": "nha", "windows": 7, "gate_bias": False, **layer}
    found["nha-learnt"] = {"mixers": "nha", "windows": 5, "gate_activation": "softmax", "slot_logits": "both"}
    taps = {"mixer_options": {name: {"conv_size": 4} for name in ("nha", "gsa", "attention")}}
    found["nha-conv"] = {"mixers": "nha", "windows": 7, **layer, **taps}
    found["hybrid-conv"] = {"mixers": ["attention", "attention", "nha", "gsa"], "windows": [7, None, 0, None], **taps}
    found["hybrid-conv"]["num_hidden_layers"] = 4
    found["gla-conv"] = {"mixers": "gla", "mixer_options": {"gla": {"conv_size": 4}}}
    found["hybrid"] = {"mixers": ["nha", "attention", "gsa"], "windows": [5, None, None]}
    return found


# Each mixer once, with a window where it can have one, for what takes seconds.
ONCE = {name: {"mixers": name, "windows": 7 if mixer_class(name).has_window else None} for name in mixer_names()}


def tiny(**fields) -> NHAForCausalLM:
    """A model in eval mode, the same for the same fields."""
    torch.manual_seed(0)
    return NHAForCausalLM(NHAConfig(**(FIELDS | fields))).eval()


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, FIELDS["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))


def close(found, wanted, bound=1e-5):
    """RMS(found - wanted) / RMS(wanted) is at most `bound`."""
    error = ((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()).item()
    assert error <= bound, error
