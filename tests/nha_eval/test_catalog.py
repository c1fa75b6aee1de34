"""What a model's name stands for, and that a broken checkpoint is refused in one line before anything runs."""

import json

import pytest
import torch
from safetensors.torch import save_file

from models.assets import SMOLLM2
from nha_eval import hub
from nha_eval.catalog import describe, full_layers, least_windows, own_window
from nha_eval.errors import UserError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 128}))
    save_file({"weight": torch.arange(1000.0)}, path / "model.safetensors")
    return path


def refusal(name):
    with pytest.raises(UserError) as problem:
        describe(str(name))
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_a_folder(folder):
    info = describe(str(folder))
    assert (info.label, info.own_window, info.max_length) == ("checkpoint", "full", 128)


def test_the_fingerprint_is_the_weights_and_the_configuration_not_the_place(folder, tmp_path):
    before = describe(str(folder)).fingerprint
    moved = folder.rename(tmp_path / "moved")
    assert describe(str(moved)).fingerprint == before
    save_file({"weight": torch.arange(1000.0) + (torch.arange(1000) == 999)}, moved / "model.safetensors")
    other = describe(str(moved)).fingerprint
    (moved / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 256}))
    assert len({before, other, describe(str(moved)).fingerprint}) == 3


def test_what_a_training_left_is_called_after_it(folder, tmp_path):
    made = tmp_path / "hybridize-mine" / "model"
    made.parent.mkdir()
    folder.rename(made)
    assert describe(str(made)).label == "hybridize-mine"


def test_a_checkpoint_kept_apart_needs_what_its_base_needs(folder):
    config = json.loads((folder / "config.json").read_text())
    for name, needs in (("smollm2-135m", (SMOLLM2.name,)), ("some/where", ())):
        (folder / "config.json").write_text(json.dumps({**config, "base_model": {"name": name, "digest": "0"}}))
        assert describe(str(folder)).needs == needs
    (folder / "config.json").write_text(json.dumps({**config, "base_model": 3}))
    with pytest.raises(UserError, match=r"base_model in config.json is 3; wanted a name and a digest"):
        describe(str(folder))


def test_large_weights_are_sampled(folder, monkeypatch):
    monkeypatch.setattr("nha_eval.catalog.WHOLE", 100)
    monkeypatch.setattr("nha_eval.catalog.BLOCK", 64)
    before = describe(str(folder)).fingerprint
    save_file({"weight": torch.arange(1000.0) * 1.001}, folder / "model.safetensors")
    assert describe(str(folder)).fingerprint != before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-10]), "corrupt: it has"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "no safetensors header"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08" + bytes(7) + b"notjson!"), "its header cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(bytes([255] * 64)), "no safetensors header"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no *.safetensors"),
        (lambda f: (f / "model.safetensors").rename(f / "model.bin"), "pickles are not read"),
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text(""), "config.json is broken"),
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "shard-2.safetensors"}}'),
            "shard-2.safetensors is missing",
        ),
    ],
)
def test_broken_checkpoints(folder, damage, message):
    damage(folder)
    assert message in refusal(folder)


def test_names_that_stand_for_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "did you mean 'nha-tiny'" in refusal("nha-tinny")
    assert "no such checkpoint folder" in refusal("./nowhere")
    assert "no such checkpoint folder" in refusal(tmp_path / "nowhere")
    assert "is a file" in refusal(folder / "config.json")
    assert "no such form: 'rnn'" in refusal(f"rnn:{folder}")
    assert "nha-tiny is a preset; give smollm2-135m, a checkpoint folder" in refusal("swa:nha-tiny")


def test_presets_and_forms(folder):
    tiny = describe("nha-tiny")
    assert tiny.own_window != "none"
    assert describe("gsa-tiny").own_window == "none"
    assert tiny.fingerprint == describe("nha-tiny").fingerprint != describe("gsa-tiny").fingerprint
    hybrid = describe(f"nha:{folder}")
    assert hybrid.label == "nha:checkpoint"
    assert hybrid.fingerprint != describe(str(folder)).fingerprint
    shipped, untrained = describe("nha-smollm2-135m"), describe("nha:smollm2-135m")
    assert (shipped.label, shipped.own_window, shipped.full_layers) == ("nha-smollm2-135m", "own", (7, 18, 20, 23))
    assert (untrained.label, untrained.own_window, untrained.full_layers) == ("nha:smollm2-135m", 64, ())
    assert shipped.needs == untrained.needs == (SMOLLM2.name,)
    with pytest.raises(UserError, match=r"nha-tiny is a preset; give smollm2-135m, a checkpoint folder"):
        describe("nha:nha-tiny")


@pytest.mark.parametrize(
    ("config", "window", "full"),
    [
        ({"model_type": "llama"}, "full", ()),
        ({"model_type": "mistral", "sliding_window": 4096}, 4096, ()),
        (
            {"model_type": "qwen3", "sliding_window": 8, "num_hidden_layers": 2}
            | {"layer_types": ["sliding_attention", "full_attention"]},
            "own",
            (1,),
        ),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, "full", ()),
        ({"model_type": "nha", "mixers": ["nha"] * 2, "windows": [64, 64]}, 64, ()),
        ({"model_type": "nha", "mixers": ["nha"] * 3, "windows": [None, 64, None]}, "own", (0, 2)),
        ({"model_type": "nha", "mixers": ["nha"] * 2, "windows": [64, 16]}, "own", ()),
        ({"model_type": "nha", "mixers": ["gsa", "attention"], "windows": [None, None]}, "full", ()),
        ({"model_type": "nha", "mixers": ["gsa"] * 2, "windows": [None, None]}, "none", ()),
    ],
)
def test_own_windows(config, window, full):
    assert own_window(config) == window
    assert full_layers(config) == full


@pytest.mark.parametrize(
    ("config", "least"),
    [
        ({"model_type": "llama"}, None),
        ({"model_type": "llama", "num_hidden_layers": 2}, (1, 1)),
        ({"model_type": "nha", "mixers": "nha", "num_hidden_layers": 3}, (0, 0, 0)),
        ({"model_type": "nha", "mixers": ["gsa", "attention", "nha"], "windows": [None] * 3}, (None, 1, 0)),
        (
            {"model_type": "gla", "num_hidden_layers": 3, "hidden_size": 32, "num_heads": 2}
            | {"attn": {"layers": [1], "num_heads": 2}},
            (None, 1, None),
        ),
    ],
    ids=["not said", "llama", "one mixer", "hybrid", "other code's"],
)
def test_the_least_window_of_each_layer(config, least):
    assert least_windows(config) == least


def test_least_windows_are_those_of_the_loaded_layers(folder):
    from models.presets import load

    for name in ("nha-tiny", "gsa-h-tiny", "swa-tiny", "gla-tiny"):
        layers = [layer.self_attn for layer in load(name).model.decoder_layers]
        wanted = tuple(mixer.smallest_window if mixer.has_window else None for mixer in layers)
        assert describe(name).least_windows == wanted
    assert describe("nha-smollm2-135m").least_windows == (0,) * 30
    assert describe("smollm2-135m").least_windows == (1,) * 30
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    assert describe(str(folder)).least_windows == describe(f"swa:{folder}").least_windows == (1, 1)
    assert describe(f"nha:{folder}").least_windows == (0, 0)


@pytest.mark.assets
def test_the_base_has_as_many_layers_as_it_says():
    from models.assets import smollm2_folder
    from models.patterns import BASE_LAYERS

    assert json.loads((smollm2_folder() / "config.json").read_text())["num_hidden_layers"] == BASE_LAYERS


def test_a_hub_that_does_not_answer_is_found_out_in_time(monkeypatch):
    import time

    import requests
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(requests, "get", lambda *args, **kwargs: time.sleep(60))
    monkeypatch.setattr(hub, "PATIENCE", 0.3)
    began = time.monotonic()
    with pytest.raises(OSError, match="no answer within"):
        hub.ask("https://hub.invalid", 0.3)
    assert hub.reachable(0.3) == (False, "no answer within 0.3 s")
    assert time.monotonic() - began < 2


def test_a_hub_model_offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal("nobody/nothing")


@pytest.mark.parametrize("status", [401, 404])
def test_a_model_that_the_hub_does_not_have(monkeypatch, status):
    from types import SimpleNamespace

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ask", lambda url: SimpleNamespace(status_code=status))
    assert f"({status})" in refusal("nobody/nothing")


def test_the_window_of_what_other_code_wrote():
    heads = {"num_hidden_layers": 3, "hidden_size": 32, "num_heads": 2}
    assert own_window({"model_type": "gla", **heads}) == "none"
    assert own_window({"model_type": "gla", "attn": {"layers": [1], "num_heads": 2}, **heads}) == "full"
    assert own_window({"model_type": "nha", "window_size": 16, **heads}) == 16
    assert own_window({"model_type": "nha", "window_size": 16, "gsa_kv_shift": 0, **heads}) == 17
    assert own_window({"model_type": "nha", "block_size": 3, "transformer_idx": 0, **heads}) == "own"
    with pytest.raises(UserError, match="conv_bias is True"):
        own_window({"model_type": "gla", "use_short_conv": True, "conv_bias": True, **heads})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "nha", "mixers": ["zz"], "windows": [None]}, "no mixer is called 'zz'"),
        ({"model_type": "nha", "mixers": 5, "num_hidden_layers": 2}, "no mixer is called 5"),
        ({"model_type": "nha", "mixers": ["nha"], "windows": [[3]]}, "a layer's window is [3]; wanted an integer >= 0"),
        ({"model_type": "mistral", "sliding_window": "wide"}, "a layer's window is 'wide'"),
        ({"model_type": "nha", "mixers": "nha", "num_hidden_layers": "two"}, "num_hidden_layers is 'two'; wanted an integer"),
        ({"model_type": "nha", "mixers": "nha", "num_hidden_layers": 10**12}, "wanted at most 10000"),
        ({"model_type": "gla", "num_hidden_layers": 10**12}, "wanted at most 10000"),
        ({"model_type": "llama", "hidden_size": -64}, "hidden_size is -64; wanted an integer >= 1"),
        ({"model_type": "gsa", "num_heads": -2}, "num_heads is -2; wanted an integer >= 1"),
        ({"model_type": "gla", "num_heads": 0}, "it cannot be read as a model of type 'gla'"),
    ],
)
def test_a_configuration_that_no_model_here_has_is_refused(config, message, folder):
    (folder / "config.json").write_text(json.dumps(config))
    told = refusal(folder)
    assert "config.json cannot be used: " in told and message in told
