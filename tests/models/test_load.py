"""Checkpoints of other code: the logits are what that code computes, and what is not here is refused by its name."""

import inspect
import json
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from theirs import (
    ATTENTION_SHAPES,
    CONVOLVED_GLA_SHAPES,
    CONVOLVED_SHAPES,
    DELTA_SHAPES,
    GLA_SHAPES,
    HEADS,
    HIDDEN,
    KV,
    LAYERS,
    SLOT_SHAPES,
    SLOTS,
    VOCABULARY,
    attention,
    checkpoint,
    gated_deltanet,
    gla,
    gsa,
    logits,
    nha,
)
from tiny import close, tiny, tokens
from transformers import AutoConfig, AutoModelForCausalLM, Mamba2Config, Qwen2Config, Qwen3Config
from transformers.models.mamba2 import modeling_mamba2

from models import NHAConfig, load_pretrained
from models.errors import ModelUnavailable
from models.foreign import FAMILIES

SLOT_FIELDS = {"num_heads": HEADS, "num_kv_heads": KV, "num_slots": SLOTS, "expand_k": 1, "expand_v": 1, "feature_map": "swish"}
GSA = {"model_type": "gsa", **SLOT_FIELDS}
GLA = {"model_type": "gla", "num_heads": 2, "expand_k": 0.5, "expand_v": 1, "hidden_act": "swish"}
DELTA = {"model_type": "gated_deltanet", "num_heads": 2, "head_dim": 8, "expand_v": 2.0}
AUTHORS = {"model_type": "nha", **SLOT_FIELDS, "window_size": 5, "gate_logit_normalizer": 8}
NEW = {**AUTHORS, "gsa_kv_shift": 0}
WINDOWED = {"attn": {"layers": [1], "num_heads": HEADS, "num_kv_heads": KV, "qkv_bias": False, "window_size": 6}}
CONVOLVED = {"use_short_conv": True, "conv_size": 3}
CASES = {
    "gsa": (GSA, SLOT_SHAPES, [gsa] * 2),
    "gsa-convolved": ({**GSA, **CONVOLVED}, CONVOLVED_SHAPES, [partial(gsa, convolutions=True)] * 2),
    "gsa-h": ({**GSA, **WINDOWED}, [SLOT_SHAPES, ATTENTION_SHAPES], [gsa, attention(6)]),
    "gla": (GLA, GLA_SHAPES, [gla] * 2),
    "gla-convolved": ({**GLA, **CONVOLVED}, CONVOLVED_GLA_SHAPES, [partial(gla, convolutions=True)] * 2),
    "gated-deltanet": (DELTA, DELTA_SHAPES, [gated_deltanet] * 2),
    "gated-deltanet-h": (
        {**DELTA, "attn": [WINDOWED["attn"]]},
        [DELTA_SHAPES, ATTENTION_SHAPES],
        [gated_deltanet, attention(6)],
    ),
    "nha-first": (AUTHORS, SLOT_SHAPES, [nha(5, 5)] * 2),
    "nha-first-convolved": ({**AUTHORS, **CONVOLVED}, CONVOLVED_SHAPES, [nha(5, 5, convolutions=True)] * 2),
    "nha-rewritten": (NEW, SLOT_SHAPES, [nha(6, 0, F.silu, 1.0)] * 2),
    "nha-rewritten-shifted": ({**AUTHORS, "gsa_kv_shift": 6}, SLOT_SHAPES, [nha(6, 6, F.silu, 1.0)] * 2),
}


@pytest.mark.parametrize(("config", "shapes", "mixers"), CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_logits_are_those_of_the_code_that_wrote_it(config, shapes, mixers, tmp_path):
    pytest.importorskip("fla.ops.gsa.naive")
    weights, x = checkpoint(tmp_path / "theirs", config, shapes), tokens(2, 23)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = load_pretrained(tmp_path / "theirs")
    close(model(x).logits, logits(weights, x, mixers))
    # What is saved again is this package's own, under its own names.
    model.save_pretrained(tmp_path / "ours")
    assert set(load_file(tmp_path / "ours" / "model.safetensors")) == set(model.state_dict())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(x).logits, model(x).logits)


@torch.no_grad()
def test_the_first_releases_full_layers(tmp_path):
    config = {**AUTHORS, "block_size": 2, "transformer_idx": 1}
    weights, x = checkpoint(tmp_path, config, SLOT_SHAPES), tokens(1, 40)
    with pytest.warns(UserWarning, match=r"windows over 64 without slots: .* after 2042 tokens"):
        model = load_pretrained(tmp_path)
    assert model.config.windows == [5, 2048]
    close(model(x).logits, logits(weights, x, [nha(5, 5), nha(2048, 2048, slots=False)]))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("writer", ["transformers", "fla"])
@pytest.mark.skipif(
    "group_size" not in inspect.signature(modeling_mamba2.MambaRMSNormGated).parameters,
    reason="norms over all groups at once: repaired",
)
@torch.no_grad()
def test_mamba2(groups, writer, tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "head_dim": 16, "state_size": 8}
    base = AutoModelForCausalLM.from_config(Mamba2Config(**shape, num_heads=4, n_groups=groups)).eval()
    for name, weight in base.named_parameters():
        if "norm" in name:
            weight.add_(torch.randn_like(weight) * 0.2)
    base.save_pretrained(tmp_path)
    if writer == "fla":
        more = {"expand": 2, "conv_kernel": 4, "n_groups": groups, "norm_eps": 1e-5, "dt_limit": [0.0, float("inf")]}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba2", **shape, **more}))
    x = tokens(2, 23)
    model = load_pretrained(tmp_path)
    close(model(x).logits, base(x).logits)
    with pytest.warns(UserWarning, match="residual_in_fp32"):
        assert load_pretrained(tmp_path, dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_transformer(qk_norm, tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "intermediate_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}
    kind = Qwen3Config if qk_norm else Qwen2Config
    base = AutoModelForCausalLM.from_config(kind(**shape, **heads, **({"head_dim": 8} if qk_norm else {}))).eval()
    for weight in base.parameters():
        if weight.dim() == 1:
            weight.add_(torch.randn_like(weight) * 0.2)
    names = {"embed_tokens": "embeddings", "input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm"}
    names["self_attn"] = "attn"
    weights = {}
    for name, t in base.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(f"{ours}.", f"{theirs}.")
        weights[name] = t.clone()
    save_file(weights, tmp_path / "model.safetensors")
    fields = {"model_type": "transformer", "num_heads": 4, "num_kv_heads": 2, "norm_eps": 1e-5, "qk_norm": qk_norm}
    (tmp_path / "config.json").write_text(json.dumps({**shape, **fields, "qkv_bias": not qk_norm, "rope_theta": 10000.0}))
    x = tokens(2, 23)
    close(load_pretrained(tmp_path)(x).logits, base(x).logits)


@pytest.mark.parametrize("kind", ["llama_nha", "qwen2_nha", "qwen3_nha"])
@torch.no_grad()
def test_hybridised_models(kind, tmp_path):
    more = {"attention_bias": True, "attention_output_bias": False} if kind == "qwen2_nha" else {}
    ours = tiny(mixers="nha", windows=5, gate_bias=False, empty_slots="sink", qk_norm=kind == "qwen3_nha", head_dim=12, **more)
    save_file({name: t.clone() for name, t in ours.state_dict().items()}, tmp_path / "model.safetensors")
    fields = {"model_type": kind, "num_slots": 8, "window_size": 5, "block_size": None, "transformer_idx": None}
    plain = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    fields |= {name: getattr(ours.config, name) for name in (*plain, "head_dim", "rms_norm_eps")}
    # As releases of Transformers before 5 wrote it.
    fields |= {"rope_theta": 10000.0, "rope_scaling": None, "max_position_embeddings": 1024}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    x = tokens(2, 30)
    assert torch.equal(load_pretrained(tmp_path)(x).logits, ours(x).logits)
    (tmp_path / "config.json").write_text(json.dumps(fields | {"block_size": 2, "transformer_idx": 0}))
    with pytest.warns(UserWarning, match="windows over 64"):
        assert load_pretrained(tmp_path).config.windows == [2048, 5, 2048]


REFUSED = [
    (GSA, {"use_short_conv": True, "conv_bias": True}, "conv_bias is True"),
    (AUTHORS, {"use_short_conv": True, "conv_size": 1}, "conv_size is 1"),
    (GLA, {"use_short_conv": True, "conv_bias": True}, "conv_bias is True"),
    (GSA, {"feature_map": "relu"}, "feature_map is 'relu'.*wanted 'swish' or 'silu'"),
    (GSA, {"expand_v": 2}, "expand_v is 2"),
    (GSA, {"attn": {"layers": [1], "num_heads": 8}}, "heads, biases or rope_theta other than the rest's"),
    (GSA, {"attnres_block_size": 2}, "attnres_block_size is 2"),
    (GLA, {"use_output_gate": False, "clamp_min": -1.0}, "use_output_gate is False.*; clamp_min is -1.0"),
    (GLA, {"num_kv_heads": 1}, "num_kv_heads is 1"),
    (DELTA, {"allow_neg_eigval": True}, "allow_neg_eigval is True"),
    (DELTA, {"output_gate_activation": "sigmoid"}, "output_gate_activation is 'sigmoid'"),
    (NEW, {"gsa_kv_shift": 3}, "gsa_kv_shift is 3.*wanted 0 or 6"),
    ({"model_type": "mamba2", "num_heads": 4, "head_dim": 16}, {"D_has_hdim": True}, "D_has_hdim is True"),
    (AUTHORS, {"attn": {"layers": [1], "num_heads": HEADS, "num_kv_heads": KV, "rope_theta": 500.0}}, "rope_theta other than"),
    (GLA, {"num_heads": 0}, "cannot be read as a model of type 'gla'"),
    ({"model_type": "llama_nha"}, {"vocab_size": "many"}, "model of type 'llama_nha'"),
]


@pytest.mark.parametrize(("config", "change", "message"), REFUSED, ids=[f"{r[0]['model_type']}-{[*r[1]]}" for r in REFUSED])
def test_what_makes_another_layer_is_refused_by_its_name(config, change, message, tmp_path):
    shapes = {"gla": GLA_SHAPES, "gated_deltanet": DELTA_SHAPES}.get(config["model_type"], SLOT_SHAPES)
    checkpoint(tmp_path, {**config, **change}, shapes)
    with pytest.raises(ModelUnavailable, match=message) as caught:
        load_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_training_alone_would_need_is_warned_of(tmp_path):
    checkpoint(tmp_path, {**NEW, "gsa_aux_loss_enable": True, "rand_window": True}, SLOT_SHAPES)
    with pytest.warns(UserWarning) as caught:
        load_pretrained(tmp_path)
    assert [name in str(warning.message) for name, warning in zip(("gsa_aux_loss_enable", "rand_window"), caught, strict=True)]


def test_the_rewrite_s_auxiliary_loss_is_kept(tmp_path):
    settings = {"gsa_aux_loss_enable": True, "gsa_aux_loss_coeff": 0.02, "gsa_aux_loss_target_ratio": 0.7}
    checkpoint(tmp_path, {**NEW, **settings}, SLOT_SHAPES)
    config = load_pretrained(tmp_path).config
    assert (config.aux_loss, config.aux_loss_target) == (0.02, 0.7)


def test_settings_of_later_releases_are_warned_of(tmp_path):
    checkpoint(tmp_path, {**GSA, "fuse_norm": False, "id2label": {"0": "a"}, "sparsity": 0.5}, SLOT_SHAPES)
    with pytest.warns(UserWarning, match=r"settings not known here: sparsity$"):
        load_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_named(tmp_path):
    weights = checkpoint(tmp_path, GSA, SLOT_SHAPES)
    file = tmp_path / "model.safetensors"
    save_file({name: t for name, t in weights.items() if "f_proj" not in name}, file)
    with pytest.raises(ModelUnavailable, match=r"lacks the weights model.layers.0.self_attn.g_proj.weight"):
        load_pretrained(tmp_path)
    save_file(weights | {"model.layers.0.attn.q_conv1d.weight": torch.zeros(32, 1, 4)}, file)
    with pytest.raises(ModelUnavailable, match=r"no layer here takes: model.layers.0.self_attn.q_conv1d.weight"):
        load_pretrained(tmp_path)
    save_file(weights | {"model.norm.weight": torch.zeros(7)}, file)
    with pytest.raises(ModelUnavailable, match=r"of other shapes: model.norm.weight \[7\] \(wanted \[32\]\)"):
        load_pretrained(tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        load_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(ModelUnavailable, match="pickles are not read"):
        load_pretrained(tmp_path)


@torch.no_grad()
def test_its_own_and_llamas(tmp_path):
    model, x = tiny(mixers=["nha", "attention", "mamba2"], windows=[5, None, None]), tokens(1, 20)
    model.save_pretrained(tmp_path / "own")
    assert torch.equal(load_pretrained(tmp_path / "own")(x).logits, model(x).logits)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(Qwen2Config(**{"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 97,
        "num_hidden_layers": 2, "intermediate_size": 48, "num_key_value_heads": 2})).eval()  # fmt: skip
    base.save_pretrained(tmp_path / "qwen2")
    close(load_pretrained(tmp_path / "qwen2")(x).logits, base(x).logits)
    with pytest.raises(ModelUnavailable, match=r"has no config.json"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["[1]", '"gla"', '{"model_type": ["gsa"]}', '{"model_type": {}}', '{"hidden_size": 8}'])
def test_a_configuration_without_a_type_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelUnavailable, match=r"config\.json cannot be read: it names no model_type; wanted a JSON object"):
        load_pretrained(tmp_path)


def test_the_authors_nha_is_not_taken_for_this_packages(tmp_path):
    checkpoint(tmp_path, AUTHORS, SLOT_SHAPES)
    with pytest.raises(ValueError, match=r"load it by models\.load_pretrained"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"models\.load_pretrained"):
        NHAConfig(window_size=32)


def test_names_are_those_of_flash_linear_attentions_classes(tmp_path):
    pytest.importorskip("fla.models")
    for kind in ("gsa", "gla", "gated_deltanet"):
        config, shapes, _ = next(case for case in CASES.values() if case[0]["model_type"] == kind)
        weights = checkpoint(tmp_path, config, shapes)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
        found = {name: t.shape for name, t in model.state_dict().items()}
        assert found == {name: t.shape for name, t in weights.items()}
    assert set(FAMILIES) >= {"gsa", "gla", "gated_deltanet", "mamba2", "transformer"}
