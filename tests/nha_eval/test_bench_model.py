"""`bench model`: what fits, what a row says, and what is compiled ahead."""

import gc
import pickle
import resource
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from bench_models import (
    CPU,
    SHORT,
    case,
    draw,
    measured,
    tiny,
)

from nha_eval.bench import families, machine, model, model_measure, model_work
from nha_eval.bench.families import presets
from nha_eval.bench.fitting import most_that_fits
from nha_eval.bench.model_grid import LARGEST, LONGEST, plan
from nha_eval.bench.model_measure import ModelMeter, RowBudget
from nha_eval.bench.rows import MODEL
from nha_eval.warming import warm_times

pytestmark = pytest.mark.usefixtures("one_thread", "little_garbage", "steady_bench_model")


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


def test_what_fitted_once_and_not_again(monkeypatch):
    monkeypatch.setattr(model_measure, "MOST_SEQUENCES", {"cpu": 16})
    timed = model_measure.ModelMeter._timed

    def fails_above_13(meter, work, note, phase):
        if work.tokens > 13:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return timed(meter, work, note, phase)

    monkeypatch.setattr(model_measure.ModelMeter, "_timed", fails_above_13)
    asked, given = measured(case("gsa", "decode", 64, LARGEST, "none"), case("gsa", "decode", 64, 16, "none"))
    assert (asked["status"], asked["batch"]) == ("ok", 12) and asked["note"].endswith("; 0.75 of the 16 that fitted then")
    assert given["status"] == "oom"


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
    # What a token needs: six FLOPs a weight of a matrix, and what its query meets, a window of 16 and 16 slots it also writes.
    matrices = sum(p.numel() for name, p in made.named_parameters() if "norm" not in name and "embed" not in name)
    met = 2 * 3 * 4 * (16 + 2 * 16) * made.config.hidden_size
    assert train["tflops"] * 1e12 / train["tokens_per_s"] == pytest.approx(6 * matrices + met, rel=1e-3)
    assert "tflops" not in prefill and "tflops" not in decode
    made.set_window(5)
    assert share["state_bytes_held"] == made.state_bytes(1, 40)
    weights = 4 * (prefill["parameters"] - made.model.embed_tokens.weight.numel())
    assert decode["weight_bytes"] == weights and "floor_ms" not in prefill
    assert decode["floor_ms"] == pytest.approx(weights / 10e9 * 1e3, rel=1e-3)
    assert decode["floor_share"] == pytest.approx(decode["floor_ms"] / decode["latency_ms"], rel=1e-3)
    assert set().union(*rows) <= set(MODEL.columns)


def test_a_setting_gives_each_layer_its_window_and_the_next_case_forgets_it():
    """`nha-h` comes with its last layer full, which a window in tokens leaves so."""
    settings = {"searched": [3, 8], "turned": {"window": 3, "full": [0]}}
    cases = plan(
        **{"device_type": "cpu", "models": ["nha-h"], "lengths": ["24"], "batches": ["1"], "phases": ["prefill", "decode"]},
        windows=["5", "searched", "turned"],
        settings=settings,
    )
    rows = measured(*cases, *cases[:1])
    assert [row["status"] for row in rows] == ["ok"] * 7, [row.get("reason") for row in rows]
    _, made = tiny("nha-h")
    own = list(made.config.windows)
    assert own[1] is None and own[0] is not None
    wanted = {"searched": [3, 8], "turned": [None, 3], "5": [5, None]}
    for row in rows:
        for layer, window in enumerate(wanted[row["window"]]):
            made.set_window(window, [layer])
        assert row["state_bytes"] == row["state_bytes_held"] == made.state_bytes(1, 24), row["window"]
    assert len({row["state_bytes"] for row in rows}) == 3


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


def test_a_captured_call_is_a_row_of_its_own_and_never_one_from_python(monkeypatch):
    played = []
    monkeypatch.setattr(model_measure, "captured", lambda call: lambda: played.append(call) or call())
    cases = [case(phase="prefill"), case(phase="prefill-graph"), case(phase="train"), case(phase="train-graph")]
    rows = measured(*cases)
    assert [(row["phase"], row["graph"], row["status"]) for row in rows] == [
        ("prefill", False, "ok"),
        ("prefill-graph", True, "ok"),
        ("train", False, "ok"),
        ("train-graph", True, "ok"),
    ]
    assert len({MODEL.key_of(row) for row in rows}) == 4 and len(set(played)) == 2
    assert rows[1]["state_bytes_held"] == rows[0]["state_bytes_held"] > 0 and rows[3]["tflops"] > 0

    def fails(call):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(model_measure, "captured", fails)
    (row,) = measured(case(phase="train-graph"))
    assert row["status"] == "unavailable" and row["reason"].startswith("it cannot be captured: RuntimeError: operation not")
    assert "latency_ms" not in row


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
