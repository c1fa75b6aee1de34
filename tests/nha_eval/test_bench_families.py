"""`bench model`: caches that stay as they are, and what its grid holds."""

import copy
import re
import types

import pytest
import torch
from bench_models import (
    CPU,
    HERE,
    case,
    draw,
    tiny,
)

from models import NHAConfig, NHAForCausalLM
from models.cache import StateLayer
from nha_eval.bench import families, model_work
from nha_eval.bench.families import fla
from nha_eval.bench.families._held import HeldKeys, hold
from nha_eval.bench.model_grid import LARGEST, LONGEST, plan
from nha_eval.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread", "little_garbage", "steady_bench_model")


# ---- the families


def test_names_are_unlike_and_every_one_keeps_the_contract():
    names = families.names()
    assert len(set(names)) == len(names) and names[0] == "transformer++"
    assert {"nha", "nha-2026", "swa", "gsa", "gla", "gated-deltanet", "mamba2", "gsa-h", "gdn-h", "hf-llama"} <= set(HERE)
    for name in names:
        family = families.find(name)
        assert family.window(name) in ("full", "none", 0, 1)
        refusal = family.refusal(name, CPU)
        assert refusal is None or "\n" not in refusal
        twin = family.twin(name)
        assert twin is None or twin in families.find("nha").NAMES
        if twin is not None and name in HERE:
            ours, theirs = (sum(p.numel() for p in tiny(each)[1].parameters()) for each in (name, twin))
            assert ours == theirs
        assert {"build", "backend", "state_bytes", "filled_cache", "cache_bytes", "CACHE"} <= set(vars(family))


@pytest.mark.parametrize("name", HERE)
def test_a_filled_cache_is_as_large_as_counted_and_stays_so(name):
    family, made = tiny(name)
    for length in (8, 100):
        with model_work.decode(made, family, 3, length, draw()) as work:
            counted = family.state_bytes(made, 3, length)
            assert work.held() == counted
            logits = work.call()
            assert logits.shape == (3, 1, made.config.vocab_size) and logits.isfinite().all()
            assert work.held() == counted


def test_a_filled_cache_of_layers_with_convolutions():
    taps = {name: {"conv_size": 3} for name in ("attention", "nha", "gsa")}
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 50, "intermediate_size": 0, "num_slots": 4}
    config = NHAConfig(mixers=["attention", "attention", "nha", "gsa"], windows=[5, None, 6, None], num_hidden_layers=4,
        mixer_options=taps, **sizes)  # fmt: skip
    family, made = families.find("nha"), NHAForCausalLM(config).eval()
    with model_work.decode(made, family, 3, 100, draw()) as work:
        counted = family.state_bytes(made, 3, 100)
        assert work.held() == counted
        assert work.call().isfinite().all() and work.held() == counted


@pytest.mark.parametrize("name", HERE)
def test_a_step_from_a_held_cache_is_a_step_of_generation(name):
    """What is timed is what a cache that grows would give, at the same context."""
    family, made = tiny(name)
    ids = draw().tokens(made.config.vocab_size, 2, 41)
    with torch.no_grad():
        cache = getattr(made(input_ids=ids[:, :40], use_cache=True, logits_to_keep=1), family.CACHE)
        held = family.filled_cache(made, 2, 41, draw())
        for i, layer in enumerate(cache.layers):
            if isinstance(layer, StateLayer):
                held.layers[i] = hold(copy.deepcopy(layer), 40)
            else:
                room = torch.zeros_like(layer.keys[:, :, :1])
                held.layers[i] = HeldKeys(*(torch.cat([x, room], 2) for x in (layer.keys, layer.values)))
        token = {"input_ids": ids[:, 40:], "use_cache": True, "logits_to_keep": 1}
        given = made(**token, **{family.CACHE: held}).logits
        wanted = made(**token, **{family.CACHE: cache}).logits
    assert torch.allclose(given, wanted, atol=1e-5)
    assert held.get_seq_length() == 40 and cache.get_seq_length() == 41


def test_seeds_say_which_weights_and_dtypes_which_kind():
    first, again, other = (families.random_model("nha", "tiny", CPU, torch.bfloat16, seed) for seed in (1, 1, 2))
    weights = [next(made.parameters()) for made in (first, again, other)]
    assert weights[0].dtype == torch.bfloat16 and torch.get_default_dtype() == torch.float32
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    # Angles of positions would be wrong in bf16.
    assert first.model.rotary_emb.inv_freq.dtype == torch.float32


def test_one_layer_stands_for_all():
    whole, one = (families.random_model("gdn-h", "tiny", CPU, torch.float32, 0, layers) for layers in (None, 1))
    assert len(one.decoder_layers) == 1 and len(whole.decoder_layers) == 2
    assert type(one.decoder_layers[0].self_attn) is type(whole.decoder_layers[0].self_attn)


def test_the_peer_llama_is_as_large_as_transformer():
    ours, theirs = (families.random_model(name, "tiny", CPU, torch.float32, 0) for name in ("transformer++", "hf-llama"))
    assert sorted(p.shape for p in ours.parameters()) == sorted(p.shape for p in theirs.parameters())


def test_flas_models_are_held_still(monkeypatch):
    """Their kernels want a GPU; what is done with their cache does not."""

    class Layer:
        def __init__(self):
            self.state = {"recurrent_state": torch.ones(1, 2, 3), "conv_state": (torch.ones(1, 4), None), "ffn_state": None}

        def update(self, **new):
            raise AssertionError("the state was replaced")

    class FlaCache:
        def __init__(self):
            self.layers = [Layer(), Layer()]

        def batch_repeat_interleave(self, repeats):
            for layer in self.layers:
                layer.state["recurrent_state"] = layer.state["recurrent_state"].repeat_interleave(repeats, 0)

    def forward(input_ids, use_cache, logits_to_keep):
        assert input_ids.shape == (1, fla.TOKENS)
        return types.SimpleNamespace(past_key_values=FlaCache())

    stub = forward
    stub.config = types.SimpleNamespace(vocab_size=32)
    cache = fla.filled_cache(stub, 5, 4096, draw())
    assert fla.cache_bytes(cache) == 2 * 4 * (5 * 6 + 4)
    assert cache.layers[1].update(recurrent_state=None, layer_idx=1, offset=1) is cache.layers[1].state


# ---- the grid


def points(**given):
    return {(c.model, c.phase, c.length, c.batch, c.window) for c in plan(**given)}


def test_the_default_grid_holds_what_is_asked_of_it():
    cases = plan(device_type="cuda")
    assert {c.size for c in cases} == {"1.3b"} and {c.model for c in cases} == set(families.names())
    there = points(device_type="cuda")
    for length in (512, 2048, 8192, 32768, 131072):
        for window in ("0", "64", "1024", "T/8"):
            assert {("nha", "prefill", length, 1, window), ("nha", "decode", length, LARGEST, window)} <= there
        assert ("transformer++", "decode", length, 1, "full") in there and ("gsa", "prefill", length, 1, "none") in there
    for length in (2048, 4096, 8192, 16384, 32768):
        assert ("swa", "train", length, 1, "64") in there
    assert ("nha", "decode", LONGEST, 1, "64") in there
    assert {c.length for c in cases if c.checkpointing} == {16384, 32768}
    # Cases of a model stand together, and training, which changes weights, last.
    order = [c.model for c in cases]
    assert [name for i, name in enumerate(order) if order[i - 1 : i] != [name]] == list(families.names())
    nha = [c.phase for c in cases if c.model == "nha"]
    assert nha == sorted(nha, key=["prefill", "decode", "train"].index)
    captured = [c for c in plan(device_type="cuda", phases=["train", "train-graph"]) if c.phase == "train-graph"]
    assert {c.length for c in captured} == {2048, 4096} and {c.work for c in captured} == {"train"}


def test_narrowing_the_grid():
    given = {"device_type": "cpu", "models": ["nha", "swa", "gsa"], "lengths": ["64", LONGEST], "batches": ["2", LARGEST]}
    there = points(**given, windows=["0", "T/4"])
    assert ("nha", "prefill", 64, 2, "0") in there and ("swa", "prefill", 64, 2, "T/4") in there
    assert not {p for p in there if p[0] == "swa" and p[4] == "0"}
    assert not {p for p in there if p[1] != "decode" and (p[2] == LONGEST or p[3] == LARGEST)}
    assert {p[3:] for p in there if p[2] == LONGEST} == {(2, "0"), (2, "none")}
    both = plan(**given, phases=["train"], checkpointing=["off", "on"])
    assert {c.checkpointing for c in both} == {True, False}
    assert case(window="T/8").window_tokens(512) == 64 and case(window="T/8").window_tokens(4) == 1
    assert case(window="9").window_tokens(512) == 9 and case("gsa", window="none").window_tokens(512) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": ["transformer"]}, "did you mean 'transformer++'"),
        ({"sizes": ["7b"]}, "no such size: '7b'"),
        ({"phases": ["decoding"]}, "did you mean 'decode'"),
        ({"models": ["swa"], "windows": ["0"]}, "sliding windows begin at 1"),
        ({"phases": ["train"], "batches": [LARGEST]}, "largest are for decode alone"),
        ({"models": ["nha"], "lengths": [LONGEST], "windows": ["T/8"]}, "a share wants a length"),
        ({"phases": ["decode"], "checkpointing": ["on"]}, "--checkpointing is for training alone"),
        ({"phases": ["decode", "train-graph"]}, "train-graph: a CUDA graph wants a GPU, and this is a run on a cpu"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        plan(device_type="cpu", **given)
