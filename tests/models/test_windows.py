"""Windows: set in place, each layer its own, limits, and what a full window must equal."""

import pytest
import torch
from tiny import FIELDS, tiny, tokens

from models import NHAConfig


@torch.no_grad()
def test_set_window_changes_what_a_new_model_with_that_window_would_be():
    model, x = tiny(mixers="nha", windows=7), tokens(2, 60)
    for window in (0, 3, None, 64):
        model.set_window(window)
        assert torch.equal(model(x).logits, tiny(mixers="nha", windows=window)(x).logits)
        assert model.config.windows == [window] * 3
    model.set_window(5, layers=[1])
    assert model.config.windows == [64, 5, 64]
    assert torch.equal(model(x).logits, tiny(mixers="nha", windows=[64, 5, 64])(x).logits)


@torch.no_grad()
def test_a_window_as_long_as_the_text_is_full_attention():
    x = tokens(2, 60)
    full = tiny(mixers="attention")(x).logits
    nha = tiny(mixers="nha", windows=None)
    nha.load_state_dict(tiny(mixers="attention").state_dict(), strict=False)
    for window in (None, 60, 500):
        nha.set_window(window)
        assert torch.allclose(nha(x).logits, full, atol=1e-4)


@torch.no_grad()
def test_window_zero_is_the_gsa_mixer():
    x = tokens(2, 40)
    assert torch.equal(tiny(mixers="nha", windows=0)(x).logits, tiny(mixers="gsa")(x).logits)


@torch.no_grad()
def test_the_state_of_a_window_is_constant_in_length():
    for mixer in ("nha", "attention"):
        model = tiny(mixers=mixer, windows=16)
        sizes = set()
        for length in (16, 50, 400):
            cache = model.new_cache()
            model(tokens(1, length), past_key_values=cache)
            sizes.add(cache.state_bytes())
        assert len(sizes) == 1


WRONG = [
    ({"mixers": "nha", "windows": -1}, "window of layer 0"),
    ({"mixers": "attention", "windows": 0}, "wanted an int >= 1"),
    ({"mixers": "gsa", "windows": 4}, "has no window"),
    ({"mixers": "nha", "windows": [1, 2]}, "windows has 2 entries"),
    ({"mixers": ["nha"]}, "mixers has 1 entries"),
    ({"mixers": "nhaa"}, "no mixer is called 'nhaa'.*did you mean 'nha'"),
    ({"windows": 2.5}, "2.5"),
    ({"num_slots": 0}, "num_slots is 0"),
    ({"gate_logit_normalizer": 0.0}, "gate_logit_normalizer"),
    ({"empty_slots": "drop"}, "empty_slots"),
    ({"feature_map": "relu"}, "feature_map"),
    ({"num_key_value_heads": 3}, "multiple of"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[str(w[0]) for w in WRONG])
def test_a_wrong_setting_is_refused_by_name(fields, message):
    fields = {"mixers": "nha", **fields} if "windows" in fields else fields
    with pytest.raises(Exception, match=message):
        tiny(**fields)


def test_set_window_refuses_before_it_changes_anything():
    model = tiny(mixers=["nha", "attention", "gsa"], windows=[5, None, None])
    for window, layers in ((-1, None), (0, None), (4, [2]), (4, [3]), ("4", None)):
        with pytest.raises(ValueError):
            model.set_window(window, layers)
    assert model.config.windows == [5, None, None]
    with pytest.raises(ValueError, match="no layer of this model has a window"):
        tiny(mixers="gsa").set_window(4)


def test_configuration_survives_a_round_trip(tmp_path):
    config = NHAConfig(**(FIELDS | {"mixers": ["nha", "attention", "gsa"], "windows": [5, None, None], "num_slots": 9}))
    config.save_pretrained(tmp_path)
    again = NHAConfig.from_pretrained(tmp_path)
    assert (again.mixers, again.windows, again.num_slots) == (config.mixers, config.windows, 9)


def test_inputs_that_do_not_fit_are_refused():
    model, x = tiny(mixers="nha", windows=4), tokens(1, 8)
    with pytest.raises(ValueError, match="exactly one of input_ids"):
        model()
    with pytest.raises(ValueError, match=r"attention_mask has shape \[1, 7\]"):
        model(x, attention_mask=torch.ones(1, 7))
    with pytest.raises(ValueError, match="'quantized'; wanted None"):
        model.generate(x, cache_implementation="quantized", max_new_tokens=2)


def test_the_backend_is_what_the_layers_run_on():
    model = tiny(mixers=["nha", "attention", "gsa"], windows=[5, None, None])
    assert model.backend() == "chunked+sdpa"
    model.set_window(None)
    assert model.backend() == "chunked+sdpa"
    full = tiny(mixers="attention")
    assert full.backend() == "sdpa"
    full.set_window(4)
    assert full.backend() == "chunked"
