"""Names inside a checkpoint's own files, and its folder's: text, whatever they hold."""

import html.parser
import json
import warnings

import pytest
from hostile import NAMES, writes

from models.errors import ModelUnavailable
from models.presets import load
from models.tokenizer import byte_tokenizer
from nha_eval.catalog import describe
from nha_eval.errors import UserError
from nha_eval.evaluate import prepare
from nha_eval.spec import Spec


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as Transformers saves it, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(256)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    folder = tmp_path / "made"
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(folder):
    """Both ways in refuse it in one line, and write nothing outside its folder."""
    with writes() as written:
        for way, kind in ((describe, UserError), (load, ModelUnavailable)):
            with pytest.raises(kind) as caught:
                way(str(folder))
            assert "\n" not in str(caught.value).strip("\n")
    assert not written.outside(folder)


@pytest.mark.parametrize("name", NAMES)
def test_fields_that_name_nothing_here(name, checkpoint):
    hostile = NAMES[name]
    edit(checkpoint / "config.json", _name_or_path=hostile, architectures=[hostile], transformers_version=hostile, task=hostile)
    edit(checkpoint / "config.json", id2label={"0": hostile}, **{f"own {hostile}": {hostile: [hostile]}})
    edit(checkpoint / "tokenizer_config.json", name_or_path=hostile, tokenizer_file=hostile, vocab_file=hostile)
    edit(checkpoint / "tokenizer_config.json", chat_template=hostile, special_tokens_map_file=hostile, added=hostile)
    before = {path: path.read_bytes() for path in checkpoint.iterdir()}
    with writes() as written, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info, loaded = describe(str(checkpoint)), load(str(checkpoint))
    assert (info.label, info.own_window, info.max_length) == ("made", "full", 256)
    assert loaded.tokenizer.decode(loaded.tokenizer("plain text")["input_ids"], skip_special_tokens=True) == "plain text"
    assert not written.outside(checkpoint) and before == {path: path.read_bytes() for path in checkpoint.iterdir()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["nha", "gla"])
def test_mixers_and_activations_are_names_that_are_there(name, kind, checkpoint):
    fields = {"mixers": [NAMES[name]] * 2} if kind == "nha" else {"hidden_act": NAMES[name], "feature_map": NAMES[name]}
    edit(checkpoint / "config.json", model_type=kind, **fields)
    refused(checkpoint)


@pytest.mark.parametrize("name", NAMES)
def test_a_type_that_is_none(name, checkpoint):
    edit(checkpoint / "config.json", model_type=NAMES[name])
    with writes() as written, pytest.raises(ModelUnavailable):
        load(str(checkpoint))
    assert not written.outside(checkpoint)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_text(name, checkpoint):
    edit(checkpoint / "tokenizer_config.json", extra_special_tokens=[NAMES[name]], pad_token=NAMES[name])
    with writes() as written:
        tokenizer = load(str(checkpoint)).tokenizer
    assert tokenizer.pad_token == NAMES[name] and not written.outside(checkpoint)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("long", "nul", "dots", "climbing", "absolute")])
def test_a_run_of_a_folder_of_that_name(name, checkpoint, tmp_path, capsys):
    """To the grid for every name; the worker and the report are in the next test."""
    folder = checkpoint.rename(tmp_path / NAMES[name].replace("/", "∕"))
    content = {"models": [str(folder)], "costs": {"lengths": [16]}, "device": "cpu", "out": str(tmp_path / "run")}
    run = prepare(Spec.model_validate(content), suites={})
    assert {cell.model for cell in run.cells} == {folder.name}
    assert all(cell.id.isascii() and "/" not in cell.id and len(cell.id) < 200 for cell in run.cells)


def test_a_whole_run_of_a_hostile_checkpoint(checkpoint, tmp_path):
    hostile = "<script>alert(1)∕\n\u202e\x1b[31m"
    edit(checkpoint / "config.json", _name_or_path=hostile, architectures=[hostile])
    edit(checkpoint / "tokenizer_config.json", pad_token="<img src=x onerror=alert(1)>", name_or_path="../../x")
    folder = checkpoint.rename(tmp_path / hostile)
    costs = {"lengths": [16], "repeats": 1, "decode_tokens": 1, "seconds": 0.1}
    content = {"models": [str(folder)], "costs": costs, "device": "cpu", "threads": 1, "out": str(tmp_path / "run")}
    with writes() as written:
        assert prepare(Spec.model_validate(content), suites={}).go() == 0
    assert not written.outside(tmp_path / "run")
    tags = []

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append(tag)
            assert not any(key.startswith("on") for key, _ in attributes)

    page = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    Tags().feed(page)
    # The one script is the page's own.
    assert (
        tags.count("script") == 1
        and "img" not in tags
        and "&lt;script&gt;" in page
        and "\u202e" not in page
        and "\x1b" not in page
    )
