"""Gates and the slots' logits in their several forms, against their formulas written out in fp64."""

import math

import pytest
import torch
from tiny import close, tiny, tokens

from kernels import nha_attention
from models import NHAConfig, NHAForCausalLM
from models.batch import Batch


def attention_of(model, x, batch):
    """What layer 0 gives the attention's output for, by the operator's definition and formulas of this file."""
    layer, config = model.decoder_layers[0].self_attn, model.config
    q, k, v = layer.heads_of(x)
    f = layer.g_proj(x).unflatten(-1, (config.num_key_value_heads, config.num_slots))
    if config.gate_activation == "softmax":
        g = torch.log(1 - torch.softmax(f, -1)) / config.gate_logit_normalizer
    else:
        g = torch.log(torch.sigmoid(f)) / config.gate_logit_normalizer
    learnt = {}
    if layer.slot_logits is not None:
        scale, bias = layer.slot_logits.scale, layer.slot_logits.bias
        learnt = {
            "slot_q": None if scale is None else q * scale[None, None, :, None],
            "slot_bias": bias,
        }
    rotary = batch.rotary
    return nha_attention(q, k, v, g, config.windows[0], rotary=rotary, scale=layer.scale, backend="recurrent", **learnt)[0]


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("logits", [None, "bias", "scale", "both"])
def test_the_layer_is_what_its_formulas_say(activation, logits):
    model = tiny(windows=5, gate_activation=activation, slot_logits=logits, num_hidden_layers=1).double()
    layer = model.decoder_layers[0].self_attn
    with torch.no_grad():
        for p in layer.slot_logits.parameters() if logits else ():
            p.copy_(torch.linspace(-1.5, 2.0, p.numel()))
    met = {}
    layer.register_forward_hook(lambda module, inputs, output: met.update(x=inputs[0], batch=inputs[1], out=output))
    model(tokens(2, 23))
    assert isinstance(met["batch"], Batch)
    close(met["out"], layer.out_of(attention_of(model, met["x"], met["batch"])), 1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slots_that_compete_forget_no_more_than_all_and_no_less_than_nothing(dtype):
    """Where one slot takes a token whole its decay is far below 1 and finite, as are the gradients; the others keep all."""
    model = tiny(windows=5, gate_activation="softmax", num_hidden_layers=1).to(dtype)
    layer = model.decoder_layers[0].self_attn
    with torch.no_grad():
        layer.g_proj.weight.zero_()
        layer.g_proj.bias.copy_(torch.tensor([80.0] + [0.0] * 7).repeat(2))
    g = layer.log_decay(torch.randn(1, 3, 48, dtype=dtype))
    assert g.dtype == dtype and (g <= 0).all() and torch.isfinite(g).all()
    assert (g[..., 0] < -3).all() and (g[..., 1:] > -1e-6).all()
    g.sum().backward()
    assert torch.isfinite(layer.g_proj.bias.grad).all()


def test_horizons_are_the_tokens_that_slots_remember_at_first():
    model = tiny(windows=5, gate_horizons=[16, 4096], num_hidden_layers=1).double()
    layer = model.decoder_layers[0].self_attn
    with torch.no_grad():
        layer.g_proj.weight.zero_()
    g = layer.log_decay(torch.zeros(1, 1, 48, dtype=torch.float64))[0, 0]
    wanted = 16 * (4096 / 16) ** (torch.arange(8) / 7)
    for head in g:
        torch.testing.assert_close((-1 / head), wanted.double(), rtol=1e-5, atol=0)


def test_a_bias_of_the_slots_starts_where_it_is_told_and_shuts_them_off():
    """At -1e4 nothing but the window is left."""
    x = tokens(1, 30)
    shut = tiny(windows=5, slot_logits="bias", slot_bias_init=-1e4)
    sliding = tiny(mixers="attention", windows=5)
    sliding.load_state_dict(shut.state_dict(), strict=False)
    close(shut(x).logits, sliding(x).logits, 1e-6)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gate_activation": "relu"}, "gate_activation is 'relu'"),
        ({"slot_logits": "all"}, "slot_logits is 'all'"),
        ({"gate_horizons": [64, 8]}, r"gate_horizons is \[64, 8\]; wanted two positive numbers of tokens, the smaller first"),
        ({"gate_horizons": 64}, "gate_horizons is 64"),
        ({"gate_horizons": [8, math.inf]}, "gate_horizons is"),
        ({"gate_horizons": [8, 64], "gate_activation": "softmax"}, "biases of gates by themselves"),
        ({"gate_horizons": [8, 64], "gate_bias": False}, "biases of gates by themselves"),
    ],
)
def test_settings_that_cannot_be(fields, said):
    with pytest.raises(ValueError, match=said):
        NHAConfig(**fields)


def test_what_was_saved_is_not_started_anew(tmp_path):
    model = tiny(windows=5, gate_horizons=[16, 4096], slot_logits="both", slot_bias_init=-1.0)
    with torch.no_grad():
        for layer in model.decoder_layers:
            for p in (layer.self_attn.g_proj.bias, layer.self_attn.slot_logits.scale, layer.self_attn.slot_logits.bias):
                p.add_(0.5)
    model.save_pretrained(tmp_path)
    again = NHAForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())
    assert (tiny(windows=5, slot_logits="bias").decoder_layers[0].self_attn.g_proj.bias == 5).all()
