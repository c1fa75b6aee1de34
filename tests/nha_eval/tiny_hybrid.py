"""A tiny random Llama, a folder of text, and specs that turn it into a hybrid in seconds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from models.tokenizer import BOS, EOS, PAD, VOCABULARY, byte_tokenizer
from nha_eval.hybridize.spec import HybridSpec, make_hybrid_spec

LENGTH = 64


def make_base(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    special = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "max_position_embeddings": 512}
    config = LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.2, **sizes, **heads, **special)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    byte_tokenizer(512).save_pretrained(folder)
    return folder


def make_text(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), size=rng.integers(2, 7))) for _ in range(200)]
    folder.mkdir(parents=True)
    for number in range(40):
        (folder / f"{number}.txt").write_text(" ".join(rng.choice(words, size=400)) + ".\n")
    return folder


def spec_of(place: Path, **changes) -> HybridSpec:
    stage = {"tokens": 8 * LENGTH * 8, "batch": 8, "learning_rate": 3e-3, "gate_learning_rate": 1e-2, "save_every": 3}
    content = {
        "base": str(place / "base"),
        "window": 8,
        "num_slots": 4,
        "train": "full",
        "text": {"source": str(place / "text"), "length": LENGTH},
        "align": dict(stage),
        "distill": dict(stage),
        "heldout": {"tokens": 1024, "lengths": [LENGTH]},
        "device": "cpu",
    }
    if changes.get("mixer") == "attention":
        del content["num_slots"]
    return make_hybrid_spec({**content, **changes}, {}, where="spec")


@pytest.fixture(scope="module")
def place(tmp_path_factory, one_thread):
    """A folder with `base` and `text`; the cache lies in it too."""
    folder = tmp_path_factory.mktemp("hybrid")
    make_base(folder / "base")
    make_text(folder / "text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NHA_EVAL_CACHE", str(folder / "cache"))
        yield folder
