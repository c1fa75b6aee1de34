"""Text that a model writes: what it is begun with, that a break changes nothing, and that it is drawn from the model."""

import json

import numpy as np
import pytest
import torch
from tiny_lm import make_model, make_tokenizer

from nha_eval.errors import UserError
from nha_eval.text.self_text import self_text_path, write_self_text

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = {"length": 12, "seed": 3, "batch": 4}


@pytest.fixture(scope="module")
def writer():
    return make_model(), make_tokenizer()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_documents_are_written_and_a_break_changes_nothing(writer, tmp_path):
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    before = torch.random.get_rng_state()
    prefixes = np.arange(1, 60, dtype=np.uint16)
    assert write_self_text(*writer, whole, documents=12, prefixes=prefixes, prefix_tokens=3, **SETTINGS) == 12
    assert (torch.random.get_rng_state() == before).all()
    rows = lines(whole)
    assert len(rows) == 12 and len({row["text"] for row in rows}) > 6
    assert write_self_text(*writer, whole, documents=12, prefixes=prefixes, prefix_tokens=3, **SETTINGS) == 0

    write_self_text(*writer, broken, documents=4, prefixes=prefixes, prefix_tokens=3, **SETTINGS)
    second = whole.read_bytes().split(b"\n")[4:6]
    # A whole line of the next batch, and part of another.
    broken.write_bytes(broken.read_bytes() + second[0] + b"\n" + second[1][:9])
    assert write_self_text(*writer, broken, documents=12, prefixes=prefixes, prefix_tokens=3, **SETTINGS) == 8
    assert broken.read_bytes() == whole.read_bytes()


def test_documents_begin_with_their_prefixes_or_with_the_first_token(writer, tmp_path):
    model, tokenizer = writer
    prefixes = np.array(tokenizer("the captain sleeps between seven stone")["input_ids"])
    write_self_text(
        model,
        tokenizer,
        tmp_path / "a.jsonl",
        documents=4,
        prefixes=prefixes,
        prefix_tokens=len(prefixes),
        **{**SETTINGS, "length": 20},
    )
    assert all(row["text"].startswith("the captain sleeps between seven stone") for row in lines(tmp_path / "a.jsonl"))
    given = []
    real = model.generate
    model.generate = lambda ids, **settings: given.append((ids, settings)) or real(ids, **settings)
    try:
        write_self_text(model, tokenizer, tmp_path / "b.jsonl", documents=4, **SETTINGS)
    finally:
        del model.generate
    (ids, settings), *_ = given
    assert ids.tolist() == [[tokenizer.eos_token_id]] * 4
    assert settings["do_sample"] and settings["temperature"] == 1.0 and settings["top_k"] == 0 and settings["top_p"] == 1.0
    with pytest.raises(UserError, match="documents of 1 tokens were asked for, of which 1 are given"):
        write_self_text(model, tokenizer, tmp_path / "c.jsonl", documents=4, **{**SETTINGS, "length": 1})
    without = make_tokenizer()
    without.eos_token = None
    with pytest.raises(UserError, match="neither BOS nor EOS"):
        write_self_text(model, without, tmp_path / "c.jsonl", documents=4, **SETTINGS)


def test_first_tokens_are_drawn_as_the_model_says(writer, tmp_path):
    """The second token's share among many documents, against the model's own probabilities."""
    model, tokenizer = writer
    path = tmp_path / "many.jsonl"
    write_self_text(model, tokenizer, path, documents=2000, length=2, seed=0, batch=500)
    with torch.no_grad():
        chances = model(torch.tensor([[tokenizer.eos_token_id]])).logits[0, -1].double().softmax(-1)
    # Single bytes that are no letters all read alike.
    by_text = {}
    for token, chance in enumerate(chances.tolist()):
        read = tokenizer.decode([token], skip_special_tokens=True)
        by_text[read] = by_text.get(read, 0.0) + chance
    texts = [row["text"] for row in lines(path)]
    assert len(by_text) > 100
    for read, chance in by_text.items():
        share = texts.count(read) / 2000
        assert abs(share - chance) < 5 * (chance * (1 - chance) / 2000) ** 0.5 + 1e-3


def test_a_file_of_other_settings_is_one_line(writer, tmp_path):
    path = tmp_path / "a.jsonl"
    write_self_text(*writer, path, documents=4, **SETTINGS)
    with pytest.raises(UserError, match="was written with seed 3, not 4: give another path, or remove it"):
        write_self_text(*writer, path, documents=8, **{**SETTINGS, "seed": 4})
    path.write_text("no JSON\n")
    with pytest.raises(UserError, match="something else than a model's text"):
        write_self_text(*writer, path, documents=8, **SETTINGS)


def test_the_place_in_the_cache_is_named_after_the_model(monkeypatch, tmp_path):
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path))
    assert self_text_path("org/model x").relative_to(tmp_path).as_posix() == "text/self-org-model-x.jsonl"
    assert self_text_path("../..").parent == tmp_path / "text"
