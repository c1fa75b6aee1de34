"""Tiny models whose right answers are known by construction, for the tests of `search`: some layers say much, others little."""

import numpy as np
import torch
from tiny_lm import make_model, make_tokenizer, words

from models import convert_pretrained

LAYERS = 4


def loud_model(tmp_path, loud=(2,), layers=LAYERS, windows=None):
    """An NHA model of tiny random layers, of which those in `loud` add much to the hidden states and the others little."""
    base = make_model(num_hidden_layers=layers, initializer_range=0.2, max_position_embeddings=4096)
    with torch.no_grad():
        for i, layer in enumerate(base.model.layers):
            layer.self_attn.o_proj.weight.mul_(3.0 if i in loud else 0.005)
    folder = tmp_path / f"loud-{'-'.join(map(str, loud))}-{layers}"
    base.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return convert_pretrained(folder, windows=windows, num_slots=8)


def rows(n, length, seed=0):
    """Random tokens [n, length]."""
    return torch.randint(1, 320, (n, length), generator=torch.Generator().manual_seed(seed))


def text_folder(folder, documents=80):
    """A folder of documents that no two share a sentence of."""
    folder.mkdir()
    for number in range(documents):
        sizes = np.random.default_rng(number).integers(300, 500)
        (folder / f"{number}.txt").write_text(words(int(sizes), 1000 + number))
    return folder
