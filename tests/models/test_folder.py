"""Checkpoints that would run code when they are opened are refused before anything of them is loaded.

The pickles and Python files here are armed: whoever opens one leaves a file behind.
"""

import json
import pickle
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny

from models import convert_pretrained, load_pretrained
from models.errors import ModelUnavailable
from models.folder import check_folder
from models.presets import load
from models.tokenizer import byte_tokenizer
from nha_eval.catalog import describe
from nha_eval.errors import UserError


class Trap:
    """Unpickled it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "it-ran"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "checkpoint"
    tiny(mixers="nha").save_pretrained(path)
    byte_tokenizer(64).save_pretrained(path)
    return path


def edit(file, **fields):
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **fields}))


def refusals(folder):
    """What each way in says; all of them refuse, in one line."""
    told = []
    for way, kind in (
        (check_folder, ModelUnavailable),
        (load_pretrained, ModelUnavailable),
        (convert_pretrained, ModelUnavailable),
        (lambda path: load(str(path)), ModelUnavailable),
        (lambda path: load(f"nha:{path}"), ModelUnavailable),
        (lambda path: describe(str(path)), UserError),
    ):
        with pytest.raises(kind) as caught:
            way(folder)
        assert "\n" not in str(caught.value)
        told.append(str(caught.value))
    return told


def test_the_traps_work(mark):
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()


def test_a_whole_folder_is_taken(folder):
    assert check_folder(str(folder)) == folder
    assert describe(str(folder)).own_window == "full" and load(str(folder)).has_window


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt", "model.pkl", "MODEL.PICKLE"]
)
def test_weights_in_pickles_alone(name, folder, mark):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    for told in refusals(folder):
        assert f"the pickle {name}" in told and "wanted weights in that format (pickles are not read)" in told
    assert not mark.exists()


def test_gguf_alone_is_told_what_is_wanted(folder):
    (folder / "model.safetensors").rename(folder / "model.gguf")
    for told in refusals(folder):
        assert "holds no *.safetensors; wanted weights in that format" in told


def test_a_pickle_called_safetensors(folder, mark):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        load(str(folder))
    with pytest.raises(UserError, match="corrupt"):
        describe(str(folder))
    assert not mark.exists()


def test_a_trainers_pickles_beside_safetensors_are_left_alone(folder, mark):
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "pytorch_model.bin"):
        (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    load(str(folder))
    describe(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["tokenizer.pkl", "vocab.bin", "tokenizer.pt", "vocab.pickle", "Tokenizer.PKL"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_tokenizer_in_pickles(name, alone, folder, mark):
    (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    if alone:
        (folder / "tokenizer.json").unlink()
    for told in refusals(folder):
        assert f"holds {name}, a pickle" in told and "wanted a tokenizer as tokenizer.json" in told
    assert not mark.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"])
@pytest.mark.parametrize("kind", ["nha", "gla", "llama", "of-its-own"])
def test_code_of_its_own(file, kind, folder, mark):
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Own: pass\n")
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    edit(folder / "config.json", model_type=kind)
    edit(folder / file, auto_map=own)
    for told in refusals(folder):
        assert f"{file} asks for code of its own (auto_map)" in told
    assert not mark.exists()
    runpy.run_path(str(folder / "own.py"))
    assert mark.exists()


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "", 5, None, "a\0.safetensors"]
)
def test_shards_lie_in_the_folder(shard, folder):
    save_file({"x": torch.zeros(1)}, folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    for told in refusals(folder):
        assert "names the shard" in told and "wanted are *.safetensors in the same folder" in told


@pytest.mark.parametrize("index", ["{}", "[]", '{"weight_map": []}', "{", "[" * 100_000])
def test_an_index_that_is_none(index, folder):
    (folder / "model.safetensors.index.json").write_text(index)
    assert len(refusals(folder)) == 6


@pytest.mark.parametrize("given", [None, 5, ["a"], b"path", 0.5, "", "a\0b", "x" * 10_000, "nowhere"])
def test_what_is_no_folder(given):
    for way in (load_pretrained, convert_pretrained, load):
        with pytest.raises(ModelUnavailable) as caught:
            way(given)
        assert "\n" not in str(caught.value)


WRONG_SIZES = [
    ({"model_type": "nha", "mixers": 5}, "mixers is 5; wanted a mixer's name, or a list"),
    ({"model_type": "nha", "mixers": {"a": 1}}, r"mixers is \{'a': 1\}; wanted"),
    ({"model_type": "nha", "mixers": [5, 5], "num_hidden_layers": 2}, "no mixer is called 5|'mixers'.*expected"),
    ({"model_type": "nha", "mixers": "nha", "num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000; wanted at most"),
    ({"model_type": "nha", "mixers": "nha", "mixer_options": 5}, "mixer_options is 5"),
    ({"model_type": "gla", "hidden_size": -64}, "hidden_size is -64; wanted an integer >= 1"),
    ({"model_type": "gla", "num_hidden_layers": -2}, "num_hidden_layers is -2"),
    ({"model_type": "gla", "num_hidden_layers": 10**12}, "wanted at most 10000"),
    ({"model_type": "gla", "vocab_size": -2}, "vocab_size is -2"),
    ({"model_type": "gla", "intermediate_size": -2}, "intermediate_size is -2; wanted an integer >= 0"),
    ({"model_type": "gsa", "num_heads": -2}, "num_heads is -2"),
    ({"model_type": "gsa", "num_slots": -2}, "num_slots is -2"),
    ({"model_type": "mamba2", "expand": -2}, r"\['expand'\] is -2; wanted a number > 0"),
    ({"model_type": "mamba2", "state_size": -2}, "state_size is -2"),
    ({"model_type": "gated_deltanet", "conv_size": 0}, "conv_size is 0; wanted an integer >= 1"),
    ({"model_type": "transformer", "num_heads": True}, "num_heads is True"),
    ({"model_type": "nha", "window_size": -5}, "window_size is -5"),
    ({"model_type": "llama", "hidden_size": -64}, "hidden_size is -64"),
    ({"model_type": "llama", "vocab_size": -2}, "vocab_size is -2"),
    ({"model_type": "qwen3", "head_dim": -2}, "head_dim is -2"),
    ({"model_type": "mistral", "num_attention_heads": "many"}, "num_attention_heads is 'many'"),
]


@pytest.mark.parametrize(
    ("config", "message"), WRONG_SIZES, ids=[f"{c['model_type']}-{[*c][1]}-{i}" for i, (c, _) in enumerate(WRONG_SIZES)]
)
def test_sizes_that_no_model_has_are_named(config, message, folder):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable, match=message) as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value)
