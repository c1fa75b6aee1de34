"""Models by name: presets, folders, and a clear word where there is none."""

import pytest
import torch
from tiny import tiny
from transformers import AutoModelForCausalLM, LlamaConfig

from models import NHAForCausalLM
from models.errors import ModelUnavailable
from models.presets import config_of, load, preset_config, preset_names
from models.tokenizer import VOCABULARY, byte_tokenizer

TINY = [name for name in preset_names() if name.endswith("-tiny")]


@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_is_the_same_at_every_load(name):
    first, second = load(name), load(name)
    assert first.weights_hash == second.weights_hash
    assert first.model.config.vocab_size == len(first.tokenizer) == VOCABULARY
    assert first.has_window == any(pattern in name for pattern in ("nha", "swa", "transformer++", "-h-"))
    ids = first.tokenizer("a b", return_tensors="pt").input_ids
    assert torch.equal(first.model(ids).logits, second.model(ids).logits)


@pytest.mark.parametrize("size", ["340m", "1.3b"])
def test_patterns_of_a_size_have_about_as_many_weights(size):
    counts = {}
    for name in preset_names():
        if name.endswith(f"-{size}"):
            with torch.device("meta"):
                model = NHAForCausalLM(preset_config(name))
            counts[name] = sum(p.numel() for p in model.parameters())
    assert len(counts) == 11
    assert max(counts.values()) <= 1.05 * min(counts.values()), counts


def test_a_hybrid_has_full_attention_in_one_layer_of_eight():
    config = preset_config("gdn-h-340m")
    assert [i for i, mixer in enumerate(config.mixers) if mixer == "attention"] == [7, 15, 23]
    assert set(config.windows) == {None}
    hybrid = preset_config("nha-h-340m")
    assert set(hybrid.mixers) == {"nha"}
    assert [i for i, window in enumerate(hybrid.windows) if window is None] == [7, 15, 23]
    layers = load("gsa-h-tiny").model.decoder_layers
    slots, attention = layers[0].self_attn, layers[1].self_attn
    assert (slots.scale, attention.scale) == (1.0, attention.head_dim**-0.5)
    assert [type(x).__name__ for x in (slots.output_norm, attention.output_norm)] == ["RMSNorm", "Identity"]


def test_byte_tokenizer_gives_every_text_back():
    tokenizer = byte_tokenizer(100)
    text = "Grüße,  日本\n\t<b>&amp; \u0000🙂"
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_a_saved_model_is_loaded_as_it_was(tmp_path):
    model = tiny(mixers=["nha", "attention", "gsa"], windows=[5, None, None], vocab_size=259)
    model.save_pretrained(tmp_path)
    byte_tokenizer(1024).save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.model.config.windows == [5, None, None]
    assert loaded.max_length == 1024
    for name in (str(tmp_path), "nha-tiny", "gsa-h-tiny"):
        assert_the_configuration_alone_is_the_loaded_models(name)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_plain_llama_folder_is_taken_as_it_is_or_as_a_hybrid(tmp_path):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 259}
    AutoModelForCausalLM.from_config(LlamaConfig(**shape)).save_pretrained(tmp_path)
    byte_tokenizer(2048).save_pretrained(tmp_path)
    assert load(str(tmp_path)).model.config.mixers == ["attention"] * 2
    assert load(str(tmp_path)).model.config.windows == [None] * 2
    hybrid = load(f"nha:{tmp_path}").model.config
    assert (hybrid.mixers, hybrid.windows) == (["nha"] * 2, [64] * 2)
    assert load(f"swa:{tmp_path}").model.config.windows == [64] * 2
    for name in (str(tmp_path), f"nha:{tmp_path}", f"swa:{tmp_path}"):
        assert_the_configuration_alone_is_the_loaded_models(name)


def assert_the_configuration_alone_is_the_loaded_models(name):
    kept, found = (config.to_dict() for config in (load(name).model.config, config_of(name)))
    for key in ("architectures", "dtype", "transformers_version", "_name_or_path"):
        kept.pop(key, None), found.pop(key, None)
    assert found == kept


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nha-tinny", "did you mean nha-tiny"),
        ("no/such", "not in the local hub cache"),
        ("/no/such/folder", "no such folder exists"),
        ("", "no model is called ''"),
        ("../../x", "no such folder"),
        ("swa:nha-tiny", "nha-tiny is a preset; wanted smollm2-135m, a checkpoint's folder or a hub id behind swa:"),
    ],
)
def test_an_unknown_name_is_refused_in_one_line(name, message):
    for ask in (load, config_of):
        with pytest.raises(ModelUnavailable, match=message) as caught:
            ask(name)
        assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    tiny(mixers="nha").save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailable, match="no tokenizer"):
        load(str(tmp_path))


def test_unknown_preset_to_train_is_refused():
    with pytest.raises(ValueError, match="no preset to train"):
        preset_config("nha-huge")
