"""What is wrapped around a model, for every mixer: compilation, half precision, adapters, tied weights, sharding."""

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import ONCE, close, settings, tiny, tokens
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM

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
