"""Pretrained models that the authors of NHA made hybrids of: Llama's, Qwen2's and Qwen3's names, and a gate's projection.

Names are those of JusenD/NHA (nha_fla/models/{llama3,qwen2,qwen3}_nha): num_slots, window_size, block_size, transformer_idx;
`self_attn.g_proj` without a bias; tau is always 8.
"""

from __future__ import annotations

from transformers import AutoConfig

from models.convert import FAMILIES as BASES
from models.convert import OWN_FIELDS
from models.foreign.authors import full_layers
from models.foreign.reading import Reader, Translation

KINDS = ("llama_nha", "qwen2_nha", "qwen3_nha")
# All else that is not their own is the base's, whose class knows it.
WITHOUT_EFFECT = ("layer_types",)
THEIRS = (
    "window_size",
    "block_size",
    "transformer_idx",
    "num_slots",
    "use_sliding_window",
    "max_window_layers",
    "sliding_window",
)


def translate(read: Reader) -> Translation:
    """A configuration of one of `KINDS`."""
    read.only("hidden_act", "silu")
    read.only("use_sliding_window", False)
    base = read.get("model_type").removesuffix("_nha")
    given = {name: read.get(name) for name in read.fields if name not in (*OWN_FIELDS, *THEIRS)}
    # The base's own class knows its defaults, and older releases' names.
    known = AutoConfig.for_model(base, **given).to_dict()
    fields = {name: value for name, value in known.items() if name not in OWN_FIELDS} | BASES[base]
    layers = fields["num_hidden_layers"]
    if fields.get("head_dim") is None:
        fields["head_dim"] = fields["hidden_size"] // fields["num_attention_heads"]
    window = read.get("window_size", 32)
    fields |= {"mixers": ["nha"] * layers, "windows": [window] * layers, "num_slots": read.get("num_slots", 32)}
    fields |= {"gate_logit_normalizer": 8.0, "gate_bias": False, "empty_slots": "sink"}
    full_layers(read, fields)
    return Translation(fields, (), tuple(read.notes))
