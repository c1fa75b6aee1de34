"""The cost meter on a small model with full attention: what the rows hold, what the state is, how the time budget works."""

import time

import pytest
import torch

from models import NHAConfig, NHAForCausalLM
from nha_eval.costs import CostMeter
from nha_eval.peak_memory import PeakMemory, _Sampler
from nha_eval.warming import LEAST_REPEATS

POINT = {"length": 32, "batch": 2, "repeats": 4, "decode_tokens": 6, "seconds": 5.0, "seed": 0}


@pytest.fixture(scope="module")
def model():
    # Threads that wait for each other on a busy machine take longer than one alone.
    torch.set_num_threads(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return NHAForCausalLM(NHAConfig(vocab_size=64, num_key_value_heads=2, mixers="attention", **sizes)).eval()


@pytest.mark.parametrize(("phase", "repeats", "tokens"), [("prefill", 4, 64), ("decode", 6, 2)])
def test_a_row(model, phase, repeats, tokens):
    row = CostMeter(model).measure(phase, **POINT)
    assert row["repeats"] == repeats
    assert 0 < row["latency_ms_p25"] <= row["latency_ms"] <= row["latency_ms_p75"]
    assert row["tokens_per_s"] == pytest.approx(1e3 * tokens / row["latency_ms"], rel=1e-2)
    assert row["cold_start_ms"] > 0
    assert row["peak_memory_mb"] > 10
    layers, heads, head_dim, fp32 = 2, 2, 8, 4
    assert row["state_bytes"] == layers * 2 * POINT["batch"] * heads * POINT["length"] * head_dim * fp32


def test_decoding_goes_on_from_the_prefilled_cache(model, monkeypatch):
    meter = CostMeter(model)
    meter.measure("prefill", **POINT)
    widths = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: widths.append(k["input_ids"].shape[1]) or forward(*a, **k))
    meter.measure("decode", **POINT)
    assert set(widths) == {1}
    meter.measure("decode", **POINT)
    assert POINT["length"] in widths
    meter.measure("prefill", **POINT)
    meter.forget()
    widths.clear()
    meter.measure("decode", **POINT)
    assert widths[0] == POINT["length"]


def test_the_budget_bounds_the_repeats_but_three_are_made(model, monkeypatch):
    forward = model.forward

    def slow(*args, **kwargs):
        time.sleep(0.1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", slow)
    began = time.monotonic()
    row = CostMeter(model).measure("prefill", **{**POINT, "repeats": 1000, "seconds": 0.2})
    assert row["repeats"] == LEAST_REPEATS
    assert time.monotonic() - began < 2


def test_what_cannot_be_measured_is_refused(model):
    meter = CostMeter(model, max_length=16)
    with pytest.raises(ValueError, match="wanted is prefill or decode"):
        meter.measure("train", **POINT)
    with pytest.raises(ValueError, match="beyond the model's 16 tokens"):
        meter.measure("prefill", **POINT)


def test_peak_memory_sees_what_came_and_went():
    with PeakMemory(torch.device("cpu")) as idle:
        pass
    with PeakMemory(torch.device("cpu")) as busy:
        torch.ones(64 * 2**20 // 4).sum()
    with PeakMemory(torch.device("cpu")) as again:
        pass
    assert 50 < busy.mebibytes - idle.mebibytes < 90
    assert again.mebibytes < busy.mebibytes - 50


def test_the_sampler_sees_it_too():
    sampler = _Sampler(interval=0.001)
    before = sampler._peak
    block = torch.ones(64 * 2**20 // 4)
    time.sleep(0.05)
    del block
    assert sampler.stop() - before > 50 * 2**20
