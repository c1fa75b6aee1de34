"""`bench model`: caches that stay as they are, what fits, what a row says, how it goes on, and the command on a CPU."""

import copy
import gc
import json
import pickle
import re
import resource
import subprocess
import sys
import time
import types
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from models.cache import CACHE_NAME, StateLayer
from nha_eval import cli
from nha_eval.bench import families, machine, model, model_measure, model_table, model_work
from nha_eval.bench.crossover import Crossover, crossover
from nha_eval.bench.families import fla, presets
from nha_eval.bench.families._held import HeldKeys, hold
from nha_eval.bench.fitting import most_that_fits
from nha_eval.bench.model_grid import LARGEST, LONGEST, ModelCase, plan
from nha_eval.bench.model_measure import ModelMeter, RowBudget
from nha_eval.bench.rows import MODEL, read
from nha_eval.bench.setting import Draw
from nha_eval.errors import UserError
from nha_eval.warming import warm_times

ROOT = Path(cli.__file__).parent.parent
CPU = torch.device("cpu")
HERE = tuple(name for name in families.names() if families.find(name).refusal(name, CPU) is None)
SHORT = RowBudget(seconds=0.01, repeats=3)


@pytest.fixture(autouse=True, scope="module")
def one_thread_and_little_garbage():
    """On a busy machine threads that wait for each other take longer than one alone; and each row collects garbage."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small_and_steady(monkeypatch):
    """Small ceilings and searches; and sources that nobody edits while a test runs."""
    monkeypatch.setattr(model, "source_digest", lambda: "these")
    monkeypatch.setattr("nha_eval.bench.ceilings.COPY_BYTES", {"cuda": 2**30, "cpu": 2**20})
    monkeypatch.setattr("nha_eval.bench.ceilings.MATMUL_SIZE", {"cuda": 8192, "cpu": 64})
    monkeypatch.setattr(model_measure, "MOST_SEQUENCES", {"cuda": 8192, "cpu": 4})
    monkeypatch.setattr(model_measure, "LONGEST_TRIED", {"cuda": 2**20, "cpu": 2048})


def draw():
    return Draw(0, CPU, torch.float32)


def tiny(name):
    return families.find(name), families.random_model(name, "tiny", CPU, torch.float32, 0)


def case(name="nha", phase="prefill", length=24, batch=1, window="16", checkpointing=None):
    return ModelCase(name, "tiny", phase, length, batch, window, False if phase == "train" else checkpointing)


def measured(*cases, budget=SHORT):
    return list(ModelMeter(CPU, torch.float32, 0, budget, gbps=10.0).measure(list(cases)))


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
    ],
)
def test_what_cannot_be_measured_is_refused(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        plan(device_type="cpu", **given)


# ---- what fits


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 37, 100, 1000])
@pytest.mark.parametrize("guess", [0, 1, 40, 1000])
def test_the_most_that_fits(limit, guess):
    tried = []
    found = most_that_fits(guess, 500, lambda n: tried.append(n) or n <= limit)
    assert found <= limit and max(tried) <= 500
    start = min(max(guess, 1), 500)
    if start <= limit:
        assert found == start and len(tried) == 1
    else:
        # Near the limit, and never further below it than where the search ends.
        assert limit - found <= limit // 8 and (found or not limit) and len(tried) <= 14


def test_a_batch_that_does_not_fit_is_made_smaller(monkeypatch):
    monkeypatch.setattr(model_measure, "MOST_SEQUENCES", {"cpu": 64})
    fill = presets.filled_cache

    def tight(made, batch, length, draw):
        if batch > 11:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return fill(made, batch, length, draw)

    monkeypatch.setattr(presets, "filled_cache", tight)
    (row,) = measured(case(phase="decode", batch=LARGEST))
    assert row["status"] == "ok" and row["batch"] in (10, 11) and row["batch_asked"] == LARGEST
    assert row["tokens_per_s"] == pytest.approx(1e3 * row["batch"] / row["latency_ms"], rel=1e-3)


def test_a_batch_whose_graph_cannot_be_captured_does_not_fit(monkeypatch):
    """Memory that runs out within a capture shows as another error, which a small step tells from what no graph can take."""
    made = []
    fill = presets.filled_cache
    monkeypatch.setattr(presets, "filled_cache", lambda *args: made.append(args[1]) or fill(*args))
    monkeypatch.setattr(ModelMeter, "graphs", True)

    def captured(call):
        if made[-1] > limit:
            raise RuntimeError("operation not permitted when stream is capturing")
        return call

    monkeypatch.setattr(model_measure, "captured", captured)
    limit = 2
    (row,) = measured(case(phase="decode", batch=LARGEST))
    assert (row["batch"], row["graph"], row["status"]) == (2, True, "ok")
    limit = 0
    (row,) = measured(case(phase="decode", batch=LARGEST))
    assert (row["batch"], row["graph"], row["status"]) == (4, False, "ok") and "cannot be captured" in row["note"]


def test_the_estimate_is_of_what_is_free(monkeypatch):
    monkeypatch.setattr(model_measure, "MOST_SEQUENCES", {"cpu": 64})
    _, made = tiny("transformer++")
    token = made.state_bytes(1, 1)
    each = 1000 * token + model_measure.GRAIN * token // 2 + 259 * 8 + 8 * 160 * 4
    monkeypatch.setattr(model_measure, "free_bytes", lambda device: int(7.5 * each / model_measure.ROOM))
    (row,) = measured(case("transformer++", "decode", 1000, LARGEST, "full"))
    assert row["batch"] == 7 and row["state_bytes_held"] == 7000 * token and row["note"] == "estimated 7, tried"


def test_the_longest_context(monkeypatch):
    longest = [case(name, "decode", LONGEST, 1, window) for name, window in (("transformer++", "full"), ("nha", "16"))]
    _, made = tiny("transformer++")
    monkeypatch.setattr(model_measure, "LONGEST_TRIED", {"cpu": 2**20})
    room = 5.5 * 1024 * made.state_bytes(1, 1) / model_measure.ROOM
    monkeypatch.setattr(model_measure, "free_bytes", lambda device: int(room))
    (full,) = measured(longest[0])
    assert (full["length"], full["status"]) == (4 * 1024, "ok") and full["length_asked"] == LONGEST
    (constant,) = measured(longest[1])
    assert constant["length"] == 2**20 and "as large at any context" in constant["note"]


def test_memory_of_a_cpu_is_bounded():
    size = int(0.99 * machine.free_bytes(CPU) / machine.USABLE)
    # Never touched, so that nothing is really taken.
    torch.empty(size, dtype=torch.uint8)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with machine.bounded_memory(CPU), pytest.raises(RuntimeError, match="allocate memory"):
        torch.empty(size, dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_limit_that_the_user_set_stays_below(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (12345, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    with machine.bounded_memory(CPU):
        pass
    assert asked == [(12345, resource.RLIM_INFINITY)] * 2


# ---- rows


def test_a_row_of_each_phase():
    cases = [case(), case(phase="decode"), case(phase="train", length=20, batch=2), replace(case(), window="T/8", length=40)]
    rows = measured(*cases)
    prefill, decode, train, share = rows
    _, made = tiny("nha")
    made.set_window(16)
    assert [row["status"] for row in rows] == ["ok"] * 4
    for row, tokens in ((prefill, 24), (decode, 1), (train, 40), (share, 40)):
        assert row["latency_ms_p25"] <= row["latency_ms"] <= row["latency_ms_p75"] and row["cold_start_ms"] > 0
        assert row["tokens_per_s"] == pytest.approx(1e3 * tokens / row["latency_ms"], rel=1e-3)
        assert row["repeats"] == 3 and row["peak_memory_mb"] > 10 and row["graph"] is False
        assert row["parameters"] == sum(p.numel() for p in made.parameters())
    assert prefill["state_bytes"] == prefill["state_bytes_held"] == made.state_bytes(1, 24)
    assert decode["state_bytes"] == decode["state_bytes_held"] == made.state_bytes(1, 24)
    assert train["state_bytes"] is None and train["state_bytes_held"] is None and train["checkpointing"] is False
    made.set_window(5)
    assert share["state_bytes_held"] == made.state_bytes(1, 40)
    weights = 4 * (prefill["parameters"] - made.model.embed_tokens.weight.numel())
    assert decode["weight_bytes"] == weights and "floor_ms" not in prefill
    assert decode["floor_ms"] == pytest.approx(weights / 10e9 * 1e3, rel=1e-3)
    assert decode["floor_share"] == pytest.approx(decode["floor_ms"] / decode["latency_ms"], rel=1e-3)
    assert set().union(*rows) <= set(MODEL.columns)


@pytest.mark.parametrize("name", ["nha", "gla", "transformer++", "hf-llama"])
def test_a_training_step_trains(name):
    _, made = tiny(name)
    losses = {}
    for again in (False, True):
        start = {key: value.clone() for key, value in made.state_dict().items()}
        with model_work.train(made, again, 1, 33, draw()) as work:
            losses[again] = [float(work.call()) for _ in range(6)]
            assert made.training and all(p.grad is not None for p in made.parameters())
        assert losses[again] == sorted(losses[again], reverse=True)
        assert not made.training and all(p.grad is None for p in made.parameters())
        made.load_state_dict(start)
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


def test_checkpointing_makes_activations_again(monkeypatch):
    _, made = tiny("nha")
    layer, calls = made.decoder_layers[0].self_attn, []
    layer.register_forward_hook(lambda *_: calls.append(1))
    for again, wanted in ((False, 1), (True, 2)):
        calls.clear()
        with model_work.train(made, again, 1, 8, draw()) as work:
            work.call()
        assert len(calls) == wanted


def test_training_after_prefill_and_decode_of_the_same_model():
    rows = measured(*(case("swa", phase, 20, 1, "16") for phase in ("prefill", "decode", "train")))
    assert [row["status"] for row in rows] == ["ok"] * 3, [row.get("reason") for row in rows]


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "oom"),
        (MemoryError(), "oom"),
        (ImportError("no module named x"), "unavailable"),
        (RuntimeError("please install tilelang"), "unavailable"),
        (RuntimeError("shape '[2]'\nis invalid"), "error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
def test_what_a_model_raises_is_the_rows_status(monkeypatch, problem, status, phase):
    _, made = tiny("nha")
    forward = made.forward

    def fails(*args, input_ids, **kwargs):
        if input_ids.shape[0] == 3:
            raise problem
        return forward(*args, input_ids=input_ids, **kwargs)

    made.forward = fails
    monkeypatch.setattr(families, "random_model", lambda *args: made)
    bad, good = measured(case(phase=phase, batch=3), case(phase=phase))
    assert bad["status"] == status and "latency_ms" not in bad and "\n" not in bad["reason"]
    assert good["status"] == "ok" and not made.training


def test_what_does_not_fit_on_this_machine_is_an_oom_row():
    with machine.bounded_memory(CPU):
        rows = measured(case("transformer++", "decode", 2**34, 1, "full"), case("transformer++", "decode", 64, 1, "full"))
    assert [row["status"] for row in rows] == ["oom", "ok"]


def test_a_model_that_cannot_be_built_is_rows_too(monkeypatch):
    def fails(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(families, "random_model", fails)
    rows = measured(case(), case(phase="decode"))
    assert [row["status"] for row in rows] == ["oom", "oom"] and rows[1]["phase"] == "decode"


def test_figures_of_nonsense_are_not_timed(monkeypatch):
    _, made = tiny("nha")
    made.lm_head.weight.data.fill_(torch.nan)
    monkeypatch.setattr(families, "random_model", lambda *args: made)
    (row,) = measured(case())
    assert row["status"] == "error" and "not finite" in row["reason"] and "latency_ms" not in row


def test_a_refusal_is_a_row_and_builds_nothing(monkeypatch):
    monkeypatch.setattr(families, "random_model", lambda *args: pytest.fail("built"))
    (row,) = measured(case("fla-gsa", window="none"))
    assert row["status"] == "unavailable" and "want a CUDA device" in row["reason"]


def test_a_model_is_gone_before_the_next_one_comes(monkeypatch):
    made = []
    build = families.random_model
    monkeypatch.setattr(families, "random_model", lambda *args: made.append(weakref.ref(found := build(*args))) or found)
    rows = measured(case(), case(phase="decode", batch=LARGEST), case(phase="train"), case(batch=10**9))
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "oom"]
    gc.collect()
    assert [ref() for ref in made] == [None]


def test_decoding_falls_back_where_no_graph_can_be_captured(monkeypatch):
    meter = ModelMeter(CPU, torch.float32, 0, SHORT, 10.0)
    family, made = tiny("nha")
    with model_work.decode(made, family, 1, 24, draw()) as work:
        for problem in (
            RuntimeError("operation not permitted when stream is capturing"),
            torch.OutOfMemoryError("out of memory"),
        ):

            def fails(call, problem=problem):
                raise problem

            monkeypatch.setattr(model_measure, "captured", fails)
            if isinstance(problem, torch.OutOfMemoryError):
                with pytest.raises(torch.OutOfMemoryError):
                    meter._graph(work, "")
            else:
                call, graph, note = meter._graph(work, "tried")
                assert call is work.call and not graph and note.startswith("tried; called from Python") and "capturing" in note
        monkeypatch.setattr(model_measure, "captured", lambda call: "replay")
        assert meter._graph(work, "tried") == ("replay", True, "tried")


def test_a_slow_first_call_leaves_the_budget_to_the_others(monkeypatch):
    """Compiling and tuning take longer than a row may."""
    calls = []

    def one_ms(call, device):
        calls.append(call())
        if len(calls) == 1:
            time.sleep(0.6)
        return 600.0 if len(calls) == 1 else 1.0

    monkeypatch.setattr(model_measure, "one_ms", one_ms)
    (row,) = measured(case("gla", "decode", window="none"), budget=RowBudget(seconds=0.5, repeats=9))
    assert (row["cold_start_ms"], row["latency_ms"], row["repeats"]) == (600.0, 1.0, 9)


def test_warm_up_ends_when_two_calls_agree():
    def timed(values):
        values = iter(values)
        return lambda: next(values)

    about = {"repeats": 4, "seconds": 60.0, "began": time.monotonic()}
    assert warm_times(timed([5.0, 4.9, 1, 2, 3, 4, 9]), 10.0, **about) == [1, 2, 3, 4]
    assert warm_times(timed([9.9, 1, 2, 3, 4, 9]), 10.0, **about) == [1, 2, 3, 4]
    # When three repeats will take the whole budget, the first call is warm-up enough.
    assert warm_times(timed([1, 2, 3, 9]), 10.0, **{**about, "seconds": 0.0}) == [1, 2, 3]


# ---- compiling ahead


def test_what_is_compiled_ahead_is_what_is_called(monkeypatch):
    """Jobs keep their failures to themselves, so that one which always fails would not be missed."""
    monkeypatch.setattr(model, "AHEAD_LENGTHS", (32, 48))
    monkeypatch.setattr(model, "AHEAD_BATCHES", (1, 2))
    called = []
    forward = presets.NHAForCausalLM.forward

    def counted(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        called.append((*kwargs["input_ids"].shape, self.training, self.config.windows[0]))
        return out

    monkeypatch.setattr(presets.NHAForCausalLM, "forward", counted)
    job = partial(model.compile_model, "nha", "tiny", ("prefill", "decode", "train"), (16, 4), CPU, torch.float32, 0)
    pickle.loads(pickle.dumps(job))()
    for window in (16, 4):
        own = {call[:3] for call in called if call[3] == window}
        # Prefill, training, and decoding two batches, whose states come from a prefill of their own.
        assert {(1, 32, False), (1, 48, False), (1, 32, True), (1, 48, True), (1, 1, False), (2, 1, False)} <= own


def test_kernels_that_are_tuned_are_compiled_by_all_processes(monkeypatch):
    build = families.random_model
    monkeypatch.setattr(
        families, "random_model", lambda name, size, *_, layers: build(name, size, CPU, torch.float32, 0, layers)
    )
    monkeypatch.setattr(presets, "backend", lambda made: "fla" if "gla" in made.config.mixers else "triton")
    cases = plan(device_type="cuda", sizes=["tiny"], models=["gla", "nha", "hf-llama", "fla-gsa"], phases=["decode", "train"])
    own, shared = model._jobs(model.ModelRun(cases, torch.device("cuda", 0), torch.bfloat16, Path("nowhere")), cases)
    assert [job.args[0] for job in own] == ["nha", "hf-llama"] and [job.args[0] for job in shared] == ["gla"]
    assert own[0].args[2] == ("decode", "train") and set(own[0].args[3]) == {0, 64, 1024, 256}
    on_a_cpu = model.ModelRun(cases, CPU, torch.float32, Path("nowhere"))
    assert model._jobs(on_a_cpu, cases) == ([], [])


# ---- the command


def bench(tmp_path, *arguments):
    given = ["bench", "model", "--device", "cpu", "--seconds", "0.01", "--repeats", "3", "--out", str(tmp_path / "run")]
    return cli.run([*given, *arguments])


NARROW = ("--model", "transformer++,nha,fla-gla", "--length", "32,80,longest", "--window", "16")


def test_a_run_on_a_cpu(tmp_path, capsys):
    assert bench(tmp_path, *NARROW) == 0
    out, err = capsys.readouterr()
    rows = read(tmp_path / "run", MODEL)
    done = [row for row in rows if row["status"] == "ok" and row["phase"] != "ceiling"]
    assert {row["status"] for row in rows} == {"ok", "unavailable"}
    asked = {(row["phase"], row["length_asked"], row["batch_asked"]) for row in done}
    assert asked == {
        *((phase, length, "1") for phase in ("prefill", "decode", "train") for length in ("32", "80")),
        *(("decode", length, "largest") for length in ("32", "80")),
        ("decode", "longest", "1"),
    }
    assert len(done) == 2 * len(asked)
    for row in done:
        assert row["state_bytes"] == row["state_bytes_held"] and int(row["parameters"]) > 1e5
    backends = {row["model"]: row["backend"] for row in done}
    assert backends == {"transformer++": "sdpa", "nha": "chunked"}
    assert all(row["reason"] for row in rows if row["status"] != "ok")
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["seed"] == 0 and environment["row_repeats"] == 3 and environment["dtype"] == "float32"
    for name in ("bench-model.csv", "bench-model-tiny-float32.svg", "bench-model-tiny-float32.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000 and name in out
    for text in (
        "tiny, float32, prefill, batch 1: median ms",
        "decoding a token, batch largest: tokens/s",
        "weights' share",
        "state in MB",
        "ceiling: copy",
        "flash-linear-attention's models want a CUDA device",
    ):
        assert text in out
    assert "nha, window 16" in err and "Traceback" not in err

    before = (tmp_path / "run/bench-model.csv").read_bytes()
    assert bench(tmp_path, *NARROW) == 0
    assert "every row is there already" in capsys.readouterr().err
    assert (tmp_path / "run/bench-model.csv").read_bytes() == before
    assert cli.run(["bench", "show", str(tmp_path / "run")]) == 0
    assert "median ms" in capsys.readouterr().out


def test_models_of_several_commands_fill_one_folder(tmp_path, capsys, monkeypatch):
    given = ("--length", "32", "--phase", "decode", "--batch", "1")
    assert bench(tmp_path, "--model", "transformer++", *given) == 0
    path = tmp_path / "run/bench-model.csv"
    first = path.read_text()
    # Cut off while its last row was written.
    path.write_text(first[:-20])
    assert bench(tmp_path, "--model", "transformer++,gla", *given) == 0
    rows = read(tmp_path / "run", MODEL)
    assert [row["model"] for row in rows] == ["copy", "matmul", "transformer++", "gla"]
    assert path.read_text().splitlines()[:3] == first.splitlines()[:3]
    keys = [MODEL.key_of(row) for row in rows]
    assert len(set(keys)) == len(keys)

    monkeypatch.setattr(model, "source_digest", lambda: "changed")
    capsys.readouterr()
    assert bench(tmp_path, "--model", "gla", *given) == 2
    err = capsys.readouterr().err
    assert "holds figures of sources" in err and len(err.splitlines()) == 1
    assert bench(tmp_path, "--model", "gla", *given, "--fresh") == 0
    assert [row["model"] for row in read(tmp_path / "run", MODEL)] == ["copy", "matmul", "gla"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nah"], "did you mean 'nha'"),
        (["--model", "nha-340m"], "no such model: 'nha-340m'"),
        (["--size", "7b"], "no such size: '7b'"),
        (["--length", "long"], "integers from 16 or longest"),
        (["--length", "largest"], "--length 'largest'"),
        (["--batch", "0"], "integers from 1 or largest"),
        (["--window", "T/0"], "--window 'T/0'"),
        (["--window", "half"], "shares of the length such as T/8"),
        (["--phase", "forward"], "no such phase: 'forward'"),
        (["--checkpointing", "yes"], "wanted is on, off"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--device", "cuda:99"], "GPUs that torch can use here"),
        (["--dtype", "int4"], "dtype 'int4'"),
        (["--repeats", "0"], "at least 1 repeat"),
        (["--seconds", "nan"], "--seconds nan"),
        (["--seed", "-1"], "--seed -1: wanted is an integer from 0"),
        (["--model", ","], "--model ',': it names nothing"),
        (["--length", ""], "--length '': it names nothing"),
        (["--phase", "train", "--batch", "largest"], "nothing to measure"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["bench", "model", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_help_has_an_example_and_imports_nothing_heavy():
    code = (
        "import sys; from nha_eval import cli; code = cli.run(['bench', 'model', '--help']); "
        "heavy = {'torch', 'triton', 'transformers', 'lm_eval', 'pandas', 'matplotlib'} & set(sys.modules); "
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr.strip() == "set()"
    assert "Example: python run_eval.py bench model" in " ".join(done.stdout.split())


def test_a_run_needs_only_what_a_bare_gpu_machine_has(tmp_path):
    given = ["--model", "nha,hf-llama", "--length", "32", "--window", "16", "--seconds", "0.01", "--device", "cpu"]
    code = (
        # A module that is None there cannot be imported.
        "import sys; sys.modules |= dict.fromkeys(['lm_eval', 'datasets', 'requests', 'gguf', 'pooch', 'fla']); "
        "import nha_eval.bench.ceilings as c; c.COPY_BYTES = {'cpu': 2**20}; c.MATMUL_SIZE = {'cpu': 64}; "
        "import nha_eval.bench.model_measure as m; m.MOST_SEQUENCES = {'cpu': 2}; "
        "from nha_eval import cli; "
        f"sys.exit(cli.run(['bench', 'model', *{given!r}, '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in read(tmp_path, MODEL)} == {"ok"}


@pytest.mark.gpu
def test_a_run_on_a_gpu(tmp_path):
    given = ["--model", "transformer++,nha,hf-llama", "--size", "tiny", "--length", "256,1024", "--window", "64"]
    assert cli.run(["bench", "model", "--device", "cuda", *given, "--batch", "1", "--out", str(tmp_path)]) == 0
    rows = [row for row in read(tmp_path, MODEL) if row["phase"] != "ceiling"]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["graph"] for row in rows if row["phase"] == "decode"} == {"True"}


# ---- crossovers, table and picture


def test_where_lines_cross():
    base = {512: 1.0, 2048: 4.0, 8192: 16.0}
    # Halfway on both logarithmic scales: as much slower before as faster after.
    assert crossover({512: 1.0, 2048: 8.0, 8192: 8.0}, base).length == pytest.approx(4096)
    found = crossover({512: 2.0, 2048: 2.0, 8192: 2.0}, base)
    assert found == Crossover(pytest.approx(1024), False) and str(found) == "~1,024"
    assert str(crossover({512: 0.5, 2048: 2.0, 8192: 2.0}, base)) == "<= 512"
    # From where it stays faster: not the first crossing.
    assert crossover({512: 0.5, 2048: 8.0, 8192: 8.0}, base).length == pytest.approx(4096)
    assert crossover({512: 0.5, 8192: 17.0}, base) is None and crossover({}, base) is None
    assert crossover({2048: 1.0, 8192: 1.0, 131072: 1.0}, base) == Crossover(2048, True)


def invented(**changes):
    rows = []
    for name, window, slope in (
        ("transformer++", "full", 2.0),
        ("nha", "64", 1.0),
        ("nha", "T/8", 1.5),
        ("newcomer", "none", 0.0),
    ):
        for phase in ("prefill", "decode", "train"):
            for length in (2048, 8192, 32768, 131072):
                for batch in ("1", "largest")[: 2 if phase == "decode" else 1]:
                    ms = (4.0 if slope == 2.0 else 8.0) * (length / 2048) ** slope
                    about = {
                        "model": name,
                        "size": "1.3b",
                        "phase": phase,
                        "window": window,
                        "dtype": "bfloat16",
                        "device": "a GPU",
                    }
                    about |= {
                        "length_asked": length,
                        "length": length,
                        "batch_asked": batch,
                        "batch": 1 if batch == "1" else 40,
                    }
                    timed = {
                        "latency_ms": ms,
                        "latency_ms_p25": ms,
                        "latency_ms_p75": ms,
                        "cold_start_ms": 99,
                        "peak_memory_mb": 5 * ms,
                    }
                    timed |= {
                        "tokens_per_s": 1e6 / ms,
                        "state_bytes_held": int(2**20 * ms),
                        "floor_share": 0.5 if phase == "decode" else "",
                    }
                    again = str(length > 8192) if phase == "train" else ""
                    row = {
                        **dict.fromkeys(MODEL.columns, ""),
                        **about,
                        **timed,
                        "checkpointing": again,
                        "status": "ok",
                        **changes,
                    }
                    rows.append({column: str(value) for column, value in row.items()})
    return rows


def test_the_table_says_how_many_times_faster(capsys):
    rows = invented()
    rows[3] |= {"status": "oom", "reason": "out of memory"}
    longest = next(row for row in rows if row["phase"] == "decode" and row["model"] == "nha")
    rows.append({**longest, "length_asked": "longest", "length": "1048576", "note": "no longer one is tried"})
    model_table.show(rows)
    out = capsys.readouterr().out
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if line.strip()]
    first = lines[: next(i for i, line in enumerate(lines) if "peak" in line[0])]
    prefill = {tuple(line[:2]): line[2:] for line in first}
    assert prefill["transformer++", "full"] == ["4.00", "64.0", "1,024", "oom", "99.0"]
    assert prefill["nha", "64"] == ["8.00 0.5x", "32.0 2.00x", "128 8.00x", "512", "~4,096", "99.0"]
    assert ["nha", "64", "8.00 0.5x", "32.0 2.00x", "128 8.00x", "512 32.0x", ">= 1,048,576", "~4,096", "50%", "99.0"] in lines
    assert ["nha", "64", "125,000 (40) 0.5x", "31,250 (40) 2.00x", "7,812 (40) 8.00x", "1,953 (40) 32.0x"] in lines
    assert "transformer++, prefill: oom: out of memory" in out


def test_the_picture_draws_what_the_table_says(tmp_path):
    from nha_eval.plots import _bench_model
    from nha_eval.plots._style import THEMED, NothingToDraw, style

    with style():
        ((key, figure),) = _bench_model.draw(pd.DataFrame(invented())).items()
    assert key == ("1.3b", "bfloat16")
    titles = [axes.get_title(loc="left").splitlines() for axes in figure.axes]
    assert [title[0] for title in titles] == [panel.title for panel in _bench_model.PANELS]
    assert titles[2][1] == "batch 1, checkpointing from 32,768"
    drawn = {bars.get_label(): bars[0].get_data() for bars in figure.axes[0].containers}
    assert drawn["transformer++|full"][1].tolist() == pytest.approx([4 / 2.048, 64 / 8.192, 1024 / 32.768, 16384 / 131.072])
    # Seconds, as most are long.
    decoded = {bars.get_label(): bars[0].get_data() for bars in figure.axes[1].containers}
    assert decoded["nha|64"][1].tolist() == pytest.approx([0.008, 0.032, 0.128, 0.512])
    rings = {line.get_label(): line.get_data() for line in figure.axes[1].lines if line.get_label().startswith("_crossover")}
    assert set(rings) == {"_crossover nha", "_crossover newcomer"}
    assert rings["_crossover newcomer"][0][0] == pytest.approx(2048 * 2**0.5)
    assert rings["_crossover newcomer"][1][0] == pytest.approx(0.008)
    across = next(line for line in figure.axes[0].lines if line.get_label() == "_crossover newcomer").get_data()
    assert (across[0][0], across[1][0]) == pytest.approx((2048 * 2**0.5, 8 / (2.048 * 2**0.5)))
    # Steps made in two ways are two lines.
    train = [bars[0].get_data()[0].tolist() for bars in figure.axes[2].containers if bars.get_label() == "nha|64"]
    assert train == [[2048, 8192], [32768, 131072]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"nha", "transformer++", "newcomer", "window 64", "window T/8", "full attention", "no window"} <= set(legend)

    pd.DataFrame(invented()).to_csv(tmp_path / "bench-model.csv", index=False)
    first = [path.read_bytes() for path in _bench_model.write(tmp_path)]
    assert first == [path.read_bytes() for path in _bench_model.write(tmp_path)]
    assert set(re.findall(r"#[0-9a-f]{6}\b", first[0].decode())) <= set(THEMED)
    with pytest.raises(NothingToDraw):
        _bench_model.draw(pd.DataFrame(invented(status="oom")))
    with pytest.raises(NothingToDraw):
        _bench_model.draw(pd.DataFrame(invented(phase="another")))


def test_bars_are_seen_whole():
    from nha_eval.plots import _bench_model
    from nha_eval.plots._style import style

    rows = [{**row, "latency_ms_p75": str(3 * float(row["latency_ms"]))} for row in invented() if row["length"] == "2048"]
    with style():
        (figure,) = _bench_model.draw(pd.DataFrame(rows)).values()
    for axes in figure.axes[:3]:
        ends = [y for bars in axes.containers for line in bars[2] for path in line.get_segments() for _, y in path]
        low, high = axes.get_ylim()
        assert ends and low <= min(ends) and max(ends) < high


@pytest.mark.parametrize(
    ("column", "text", "why"),
    [
        ("length_asked", "abc", "row 1: length_asked is 'abc', wanted an integer"),
        ("latency_ms", "fast", "row 1: latency_ms is 'fast', wanted a number"),
        ("batch", "", "row 1: batch is '', wanted an integer"),
    ],
)
def test_a_table_that_was_changed_is_a_mistake(column, text, why, tmp_path, capsys):
    first, *others = invented()
    pd.DataFrame([first | {column: text}, *others]).to_csv(tmp_path / "bench-model.csv", index=False)
    assert cli.run(["bench", "show", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert why in err and len(err.strip().splitlines()) == 1


def test_a_picture_stays_in_its_folder(tmp_path):
    from nha_eval.plots import _bench_model

    (tmp_path / "run").mkdir()
    pd.DataFrame(invented(size="../../x")).to_csv(tmp_path / "run" / "bench-model.csv", index=False)
    assert {path.parent for path in _bench_model.write(tmp_path / "run")} == {tmp_path / "run"}


def test_caches_go_by_the_name_that_transformers_gives_them():
    assert families.find("hf-llama").CACHE == families.find("nha").CACHE == CACHE_NAME
