"""What is wrapped around a model, for every mixer: compilation, half precision, adapters, tied weights, sharding."""

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.hooks import ModelHook, add_hook_to_module
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraModel
from tiny import ONCE, close, settings, tiny, tokens
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM

from kernels.glu import swiglu
from models import layers

SETTINGS = settings()
every_mixer = pytest.mark.parametrize("fields", SETTINGS.values(), ids=SETTINGS.keys())


def loss_and_gradients(model, step, x):
    model.zero_grad()
    loss = step(x, labels=x).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "fields",
    # Seconds each: one of them in every run of the tests.
    [pytest.param(fields, marks=[] if name == "nha" else [pytest.mark.slow], id=name) for name, fields in ONCE.items()],
)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_compiled_model_gives_the_same_loss_and_gradients(fields):
    torch._dynamo.reset()
    counters.clear()
    model, x = tiny(**fields, num_hidden_layers=1).train(), tokens(2, 20)
    compiled = torch.compile(model, backend="aot_eager")
    loss, wanted = loss_and_gradients(model, model, x)
    again, found = loss_and_gradients(model, compiled, x)
    assert counters["stats"]["unique_graphs"] > 0
    close(again, loss, 1e-6)
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        close(grad, wanted[name], 1e-5)


@every_mixer
def test_autocast_computes_in_bf16_and_stays_near(fields):
    model, x = tiny(**(fields | {"initializer_range": 0.05})), tokens(2, 40)
    loss, wanted = loss_and_gradients(model, model, x)
    with torch.autocast("cpu", torch.bfloat16):
        again, found = loss_and_gradients(model, model, x)
        logits = model(x).logits
        assert logits.dtype == torch.bfloat16
        with torch.no_grad():
            for more in ({}, {"max_length": 40}):
                cache = model.new_cache(**more)
                steps = [model(x[:, s:e], past_key_values=cache).logits for s, e in ((0, 20), (20, 21), (21, 40))]
                close(torch.cat(steps, 1).float(), logits.float(), 3e-2)
    close(again, loss, 1e-2)
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        assert grad.dtype == torch.float32
        assert torch.isfinite(grad).all(), name
    # A gradient's parts that nearly cancel lose more than its whole.
    close(*(torch.cat([grad.flatten() for grad in grads.values()]) for grads in (found, wanted)), 5e-2)


@every_mixer
def test_under_autocast_a_norm_s_output_is_cast_once_and_gradients_are_as_near(fields, monkeypatch):
    model, x = tiny(**(fields | {"initializer_range": 0.05})), tokens(4, 40)
    seen = []
    for layer in model.decoder_layers:
        for module in (layer.self_attn, layer.mlp):
            module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    _, exact = loss_and_gradients(model, model, x)
    assert set(seen) == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        once, found = loss_and_gradients(model, model, x)
        assert set(seen) == {torch.bfloat16}
        monkeypatch.setattr(layers, "_normed", lambda norm, x: norm(x))
        each, wanted = loss_and_gradients(model, model, x)
    assert torch.equal(once, each)
    flat = [torch.cat([grads[name].flatten() for name in exact]) for grads in (found, wanted, exact)]
    assert (flat[0] - flat[2]).norm() <= 1.1 * (flat[1] - flat[2]).norm()


def _nothing(layer, heard):
    pass


def _listen(layer, heard):
    layer.mlp.register_forward_hook(lambda *_: heard.append(1))


def _listen_backwards(layer, heard):
    layer.mlp.register_full_backward_hook(lambda *_: heard.append(1))


def _listen_to_the_activation(layer, heard):
    layer.mlp.act_fn.register_forward_hook(lambda *_: heard.append(1))


def _listen_to_a_projection(layer, heard):
    layer.mlp.gate_proj.register_forward_hook(lambda *_: heard.append(1))


def _adapt(layer, heard):
    names = ["gate_proj", "up_proj", "down_proj"]
    LoraModel(layer.mlp, LoraConfig(r=4, target_modules=names, init_lora_weights=False), "default")
    for name in names:
        layer.mlp.get_submodule(name).lora_B["default"].register_forward_hook(lambda *_: heard.append(1))


def _offload(layer, heard):
    class Hook(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            heard.append(1)
            return args, kwargs

    add_hook_to_module(layer.mlp, Hook())


def _wrap(layer, heard):
    class Wrapped(type(layer.mlp)):
        def forward(self, x):
            heard.append(1)
            return super().forward(x)

    layer.mlp.__class__ = Wrapped


@pytest.mark.parametrize(
    ("change", "activation", "by_kernel"),
    [
        (_nothing, "silu", True),
        (_nothing, "swish", True),
        (_listen_to_a_projection, "silu", True),
        (_adapt, "silu", True),
        (_nothing, "gelu", False),
        (_listen, "silu", False),
        (_listen_backwards, "silu", False),
        (_listen_to_the_activation, "silu", False),
        (_offload, "silu", False),
        (_wrap, "silu", False),
    ],
)
def test_a_kernel_for_the_mlp_s_product_passes_nothing_by(change, activation, by_kernel, monkeypatch):
    model, x, heard, took = tiny(num_hidden_layers=1, hidden_act=activation), tokens(2, 9), [], []
    change(model.decoder_layers[0], heard)
    loss, wanted = loss_and_gradients(model, model, x)
    times = len(heard)
    assert (times > 0) == (change is not _nothing)
    # The kernel has tests of its own; without a GPU torch's operations stand in its place.
    monkeypatch.setattr(layers, "by_kernels", lambda x: True)
    monkeypatch.setattr(layers, "swiglu", lambda gate, up: took.append(1) or swiglu(gate, up))
    again, found = loss_and_gradients(model, model, x)
    assert len(took) == by_kernel and len(heard) == 2 * times
    assert torch.equal(loss, again) and all(torch.equal(found[name], wanted[name]) for name in wanted)


@every_mixer
@torch.no_grad()
def test_a_model_in_bf16_keeps_its_state_in_bf16(fields):
    exact = tiny(**(fields | {"initializer_range": 0.05}))
    x, wanted = tokens(2, 30), exact(tokens(2, 30)).logits
    model = exact.to(torch.bfloat16)
    cache = model.new_cache()
    found = torch.cat([model(x[:, i : i + 1], past_key_values=cache).logits for i in range(30)], 1)
    assert found.dtype == model(x).logits.dtype == torch.bfloat16
    close(found.float(), model(x).logits.float(), 3e-2)
    close(found.float(), wanted, 3e-2)
    assert cache.state_bytes() == model.state_bytes(2, 30)


@every_mixer
def test_lora_trains_saves_loads_and_merges(fields, tmp_path):
    model, x = tiny(**(fields | {"initializer_range": 0.05})), tokens(2, 20)
    before = model(x).logits.detach()
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    close(adapted(x).logits, before, 1e-6)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(adapted(x, labels=x).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    for name, p in adapted.named_parameters():
        assert p.requires_grad == ("lora_" in name)
    adapted.eval().save_pretrained(tmp_path)
    wanted = adapted(x).logits.detach()
    again = PeftModel.from_pretrained(tiny(**(fields | {"initializer_range": 0.05})), tmp_path).eval()
    close(again(x).logits, wanted, 1e-6)
    close(again.merge_and_unload()(x).logits, wanted, 1e-5)
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    assert torch.equal(adapted.generate(input_ids=x, **settings), adapted.generate(input_ids=x, use_cache=False, **settings))


@every_mixer
@torch.no_grad()
def test_tied_weights_are_one_tensor_saved_once(fields, tmp_path):
    model, x = tiny(**fields, tie_word_embeddings=True), tokens(1, 12)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again(x).logits, model(x).logits)
    untied = sum(p.numel() for p in tiny(**fields).parameters())
    assert sum(p.numel() for p in model.parameters()) == untied - model.lm_head.weight.numel()


def test_accelerate_shards_by_decoder_layer():
    model = tiny(mixers=["nha", "gla", "attention"], windows=[5, None, None])
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)
    wrapped = [module for module in model.modules() if plugin.auto_wrap_policy(module, recurse=False, nonwrapped_numel=0)]
    assert wrapped == list(model.decoder_layers)


@pytest.mark.parametrize("mixer", ["nha", "gsa"])
def test_a_norm_behind_attention_that_is_wrapped_is_taken_all_the_same(mixer):
    """As adapters that train norms wrap them."""
    model, ids = tiny(mixers=mixer, output_norm=True, output_activation="silu").eval(), tokens(2, 9)
    wanted = model(ids).logits
    for layer in model.decoder_layers:
        norm = layer.self_attn.output_norm
        assert isinstance(norm, layers.RMSNorm)
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        whole = model(ids).logits
        layer.self_attn.output_norm = torch.nn.Sequential(norm)
        torch.testing.assert_close(model(ids).logits, whole)
    assert not torch.allclose(model(ids).logits, wanted)


def test_a_model_without_values_goes_through():
    with torch.device("meta"):
        model, ids = tiny(mixers="attention"), torch.zeros(2, 9, dtype=torch.long)
    assert model(ids).logits.shape == (2, 9, model.config.vocab_size)
