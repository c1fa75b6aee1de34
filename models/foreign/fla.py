"""flash-linear-attention's GSA, GLA, Gated DeltaNet, Mamba-2 and Transformer checkpoints (and Transformers' own Mamba-2).

Names of options and weights are those of its package flash-linear-attention 0.6.0 (fla/models, fla/layers).
"""

from __future__ import annotations

from models.foreign.reading import Reader, Translation

KINDS = ("gsa", "gla", "gated_deltanet", "mamba2", "transformer")

DECODER_NAMES = (
    (r"^model\.embeddings\.", "model.embed_tokens."),
    (r"\.attn_norm\.", ".input_layernorm."),
    (r"\.mlp_norm\.", ".post_attention_layernorm."),
    (r"\.attn\.", ".self_attn."),
)
SLOT_NAMES = ((r"\.self_attn\.f_proj\.", ".self_attn.g_proj."), (r"\.self_attn\.g_norm\.", ".self_attn.output_norm."))
MAMBA2_NAMES = (
    (r"^backbone\.embeddings?\.", "model.embed_tokens."),
    (r"^backbone\.norm_f\.", "model.norm."),
    (r"^backbone\.layers\.(\d+)\.norm\.", r"model.layers.\1.input_layernorm."),
    (r"^backbone\.layers\.(\d+)\.mixer\.", r"model.layers.\1.self_attn."),
)
# Which kernels run, how weights start, and what the layers take and do not use.
WITHOUT_EFFECT = (
    "attn_mode", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp", "use_cache",
    "hidden_ratio", "conv_size", "clamp_min", "clamp_max", "use_norm", "use_output_gate", "share_conv_kernel", "chunk_size",
    "max_position_embeddings", "A_init_range", "conv_init", "dt_min", "dt_max", "dt_init_floor", "rescale_prenorm_residual",
    "residual_in_fp32", "time_step_min", "time_step_max", "time_step_floor", "time_step_rank", "norm_eps", "layer_norm_epsilon",
)  # fmt: skip
# Fields that attention layers share with mixers of the same kind of heads.
SHARED = ("num_attention_heads", "num_key_value_heads", "head_dim", "rope_parameters")
# No limit to Mamba-2's step sizes, as fla and as Transformers write it.
UNLIMITED = ([0.0, float("inf")], [0.0, {"__float__": "Infinity"}])


def translate(read: Reader) -> Translation:
    """A configuration of one of `KINDS`."""
    return {"gsa": gsa, "gla": gla, "gated_deltanet": gated_deltanet, "mamba2": mamba2, "transformer": transformer}[
        read.get("model_type")
    ](read)


def decoder(read: Reader, layers: int = 24) -> dict:
    """What all but Mamba-2 share. `layers`: how many where the configuration does not say."""
    read.only("hidden_act", "swish", "silu")
    read.only("attnres_block_size", None)
    read.only("elementwise_affine", True)
    hidden = read.get("hidden_size", 2048)
    width = read.get("intermediate_size")
    if width is None:
        # Two thirds of the ratio, in multiples of 256 (fla/modules/mlp.py).
        width = -(-int(hidden * (read.get("hidden_ratio") or 4) * 2 / 3) // 256) * 256
    return common(read, layers) | {
        "intermediate_size": width,
        "rms_norm_eps": read.get("norm_eps", 1e-6),
        "max_position_embeddings": read.get("max_position_embeddings", 2048),
    }


def common(read: Reader, layers: int) -> dict:
    """Fields that have the same meaning and name in every configuration."""
    same = {"initializer_range": 0.02, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    found = {name: read.get(name, default) for name, default in same.items()}
    return found | {
        "hidden_size": read.get("hidden_size", 2048),
        "num_hidden_layers": read.get("num_hidden_layers", layers),
        "vocab_size": read.get("vocab_size", 32000),
    }


def heads_of(read: Reader, heads: int, kv_heads: int | None) -> dict:
    """Fields of heads as wide as the hidden size allows."""
    head_dim = read.get("hidden_size", 2048) // heads
    return {"num_attention_heads": heads, "num_key_value_heads": kv_heads or heads, "head_dim": head_dim}


def attention_layers(read: Reader, fields: dict, mixer: str, window: int | None = None, fixed_heads: bool = False) -> dict:
    """`fields` with a mixer and a window a layer: `mixer` everywhere but where `attn` asks for plain attention.

    fixed_heads: whether `mixer` itself uses the fields' heads, which those layers must then share.
    """
    layers = fields["num_hidden_layers"]
    mixers, windows = [mixer] * layers, [window] * layers
    specs = read.get("attn") or []
    specs = [specs] if isinstance(specs, dict) else specs
    found = []
    for spec in specs:
        for i in spec["layers"]:
            mixers[i], windows[i] = "attention", spec.get("window_size")
        found.append(heads_of(read, spec["num_heads"], spec.get("num_kv_heads")) | rotary(spec.get("rope_theta", 10000.0)))
        found[-1] |= {"attention_bias": spec.get("qkv_bias", False), "attention_output_bias": False}
    if any(one != found[0] for one in found):
        read.unlike.append("attn gives its layers unlike heads, biases or rope_theta (wanted the same for all)")
    kept = {"attention_bias": False} | {name: fields[name] for name in SHARED if name in fields}
    if found and fixed_heads and any(found[0][name] != value for name, value in kept.items()):
        read.unlike.append("attn gives its layers heads, biases or rope_theta other than the rest's (wanted the same)")
    return fields | (found[0] if found else {}) | {"mixers": mixers, "windows": windows}


def rotary(theta: float) -> dict:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": float(theta)}}


def short_convolutions(read: Reader) -> int:
    """Taps of a layer's convolutions where they can be left out; 1: it has none."""
    if not read.get("use_short_conv"):
        return 1
    read.only("conv_bias", False)
    taps = read.get("conv_size", 4)
    if taps == 1:
        read.unlike.append("conv_size is 1, which here is none (wanted 2 or more where use_short_conv is true)")
    return taps


def slot_layer(read: Reader, mixer: str) -> dict:
    """What GSA and the authors' NHA share: slots under a gate, SiLU on values and output, a norm before o_proj."""
    taps = short_convolutions(read)
    for name in ("expand_k", "expand_v"):
        read.only(name, 1)
    heads = heads_of(read, read.get("num_heads", 4), read.get("num_kv_heads"))
    return heads | {
        "num_slots": read.get("num_slots", 64) or heads["head_dim"],
        "gate_logit_normalizer": read.get("gate_logit_normalizer", 8),
        "gate_bias": False,
        "value_activation": "silu",
        "output_activation": "silu",
        "output_norm": True,
        "mixer_options": {mixer: {"conv_size": taps}} if taps != 1 else {},
    }


def gsa(read: Reader) -> Translation:
    read.only("feature_map", "swish", "silu")
    fields = decoder(read) | slot_layer(read, "gsa") | {"feature_map": "silu", "attention_scale": 1.0}
    return Translation(attention_layers(read, fields, "gsa", fixed_heads=True), DECODER_NAMES + SLOT_NAMES)


def gla(read: Reader) -> Translation:
    heads = read.get("num_heads", 4)
    read.only("num_kv_heads", None, heads)
    for name, wanted in (("feature_map", None), ("use_output_gate", True), ("clamp_min", None)):
        read.only(name, wanted)
    read.only("use_gk", True)
    read.only("use_gv", False)
    options = {"num_heads": heads, "expand_k": read.get("expand_k", 0.5), "expand_v": read.get("expand_v", 1.0)}
    options["conv_size"] = short_convolutions(read)
    fields = decoder(read) | heads_of(read, heads, None) | {"mixer_options": {"gla": options}}
    # The norm has another name where it is not fused with its gate.
    names = (*DECODER_NAMES, (r"\.self_attn\.g_norm\.", ".self_attn.g_norm_swish_gate."))
    return Translation(attention_layers(read, fields, "gla"), names)


def gated_deltanet(read: Reader) -> Translation:
    heads = read.get("num_heads", 6)
    read.only("num_v_heads", None, heads)
    for name, wanted in (("use_gate", True), ("use_short_conv", True), ("allow_neg_eigval", False)):
        read.only(name, wanted)
    read.only("output_gate_activation", "swish", "silu")
    options = {
        "num_heads": heads,
        "head_dim": read.get("head_dim", 256),
        "expand_v": read.get("expand_v", 2.0),
        "conv_size": read.get("conv_size", 4),
    }
    fields = decoder(read, 21) | heads_of(read, heads, None) | {"mixer_options": {"gated_deltanet": options}}
    return Translation(attention_layers(read, fields, "gated_deltanet"), DECODER_NAMES)


def mamba2(read: Reader) -> Translation:
    """Its layers have no feed-forward. Transformers' Mamba-2 has the same weights' names, and other names for a few options."""
    hidden, expand, head_dim = read.get("hidden_size", 2048), read.get("expand", 2), read.get("head_dim", 64)
    read.only("num_heads", int(expand * hidden) // head_dim)
    for name, wanted in (("use_bias", False), ("use_conv_bias", True), ("D_has_hdim", False), ("norm_before_gate", False)):
        read.only(name, wanted)
    for name in ("rmsnorm", "rms_norm"):
        read.only(name, True)
    for name in ("dt_limit", "time_step_limit"):
        read.only(name, *UNLIMITED)
    read.only("hidden_act", "silu", "swish")
    if read.half and read.get("residual_in_fp32", True):
        read.notes.append("residual_in_fp32: the residual stream is in the weights' dtype")
    options = {
        "expand": expand,
        "head_dim": head_dim,
        "state_size": read.get("state_size", 128),
        "n_groups": read.get("n_groups", 1),
        "conv_size": read.get("conv_kernel", 4),
    }
    fields = common(read, 48) | heads_of(read, read.get("num_heads", hidden // head_dim), None)
    # It has no positions, and so no longest context.
    fields |= {
        "mixers": "mamba2",
        "mixer_options": {"mamba2": options},
        "intermediate_size": 0,
        "max_position_embeddings": 1 << 20,
    }
    fields["rms_norm_eps"] = read.get("norm_eps", read.get("layer_norm_epsilon", 1e-5))
    return Translation(fields, MAMBA2_NAMES, tuple(read.notes))


def transformer(read: Reader) -> Translation:
    fields = decoder(read) | heads_of(read, read.get("num_heads", 32), read.get("num_kv_heads"))
    fields |= rotary(read.get("rope_theta", 10000.0))
    fields |= {"attention_bias": read.get("qkv_bias", False), "attention_output_bias": False}
    # Its norms of queries and keys keep the default of fla.modules.RMSNorm, whatever norm_eps says.
    fields |= {"qk_norm": read.get("qk_norm", False), "qk_norm_eps": 1e-5}
    return Translation(fields | {"mixers": "attention", "windows": read.get("window_size")}, DECODER_NAMES)
