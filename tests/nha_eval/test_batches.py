"""Batches of 1, 3, 16 and of their own choice give the same scores for every mixer that exists as a file, documents shuffled.

Documents of unlike lengths, questions on one text, and one longer than the model takes; choices, texts to be continued, and
whole texts. Single precision is held to 1e-6 of a log-likelihood, double precision to 1e-6 itself, so that what rounds apart
and what is wrong cannot be taken for each other.
"""

import random

import pytest
import torch
from test_every_mixer import PRESETS
from tiny_lm import ask, words

from models.mixers import mixer_names
from models.presets import load
from nha_eval.lm import HarnessLM

pytestmark = pytest.mark.usefixtures("one_thread")

MAX_LENGTH = 400  # tokens, which are bytes
TEXTS = [words(5 + 8 * number, number) for number in range(7)]
# Two more questions on one of the texts.
CONTEXTS = [*TEXTS, *(f"{TEXTS[5]} {words(4, seed)}" for seed in (50, 51)), words(120, 60)]
CHOICES = [(context, " " + words(2 + choice, 100 + choice)) for context in CONTEXTS for choice in range(3)]
CONTINUED = [(context, {"until": ["\n", "e"], "max_gen_toks": 8}) for context in CONTEXTS]
TOLERANCES = [
    pytest.param(torch.float32, {"rel": 1e-6}, id="fp32"),
    pytest.param(torch.float64, {"abs": 1e-6}, id="fp64", marks=pytest.mark.slow),
]


class Rows:
    """Counts the rows of each call of a model."""

    def __init__(self, model):
        self.counts = []
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module, args, kwargs):
        self.counts.append(len(args[0] if args else kwargs["input_ids"]))


def answers(loaded, batch, seed):
    """(log-likelihoods with whether greedy, texts, log-likelihoods of whole texts), each asked in an order of its own by
    `seed` and given back in the order of the lists above."""
    lm = HarnessLM(loaded, batch_size=batch, max_length=MAX_LENGTH)
    rng = random.Random(seed)

    def asked(method, arguments):
        order = rng.sample(range(len(arguments)), len(arguments))
        found = method(ask("", *(arguments[place] for place in order)))
        return [answer for _, answer in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]

    return (
        asked(lm.loglikelihood, CHOICES),
        asked(lm.generate_until, CONTINUED),
        asked(lm.loglikelihood_rolling, [(context,) for context in CONTEXTS]),
    )


@pytest.mark.parametrize("mixer", mixer_names())
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_batch_size_and_order_change_no_score(mixer, dtype, tolerance):
    loaded = load(PRESETS[mixer])
    loaded.model.to(dtype)
    rows = Rows(loaded.model)
    choices, texts, whole = answers(loaded, 1, seed=0)
    assert set(rows.counts) == {1}
    for seed, batch in enumerate((3, 16, "auto"), 1):
        rows.counts.clear()
        found_choices, found_texts, found_whole = answers(loaded, batch, seed)
        assert 1 < max(rows.counts) <= (len(CHOICES) if batch == "auto" else batch)
        assert [pair[0] for pair in found_choices] == pytest.approx([pair[0] for pair in choices], **tolerance)
        assert [pair[1] for pair in found_choices] == [pair[1] for pair in choices]
        assert found_texts == texts
        assert found_whole == pytest.approx(whole, **tolerance)
