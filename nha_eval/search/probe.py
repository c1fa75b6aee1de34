"""The recall probe: facts in filler text, asked back at its end, all in one pass of teacher forcing.

Texts come from the recall tasks' generators (`tasks.synthetic`): a context, then its questions one after another, each followed
by its right answer. Read are the answers' tokens: their mean log-probability, and whether each is the likeliest. No
text is generated, so a probe of n contexts costs n sequences.

    texts = probe_texts(tokenizer, contexts=6, length=512, seed=SEARCH)

Seeds are beyond 2**32, where no evaluation's are (`--seed` is below it): what is searched on is never what is evaluated. Even
ones are for searching, odd ones for confirming.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import NHAForCausalLM
from nha_eval.search.divergence import log_probabilities
from tasks.synthetic import documents, generator, generator_names

FIRST_SEED = 2**32
QUESTIONS = 6  # of a context
SHORTEST = 256  # tokens, of the generators


def probe_seed(seed: int, split: str) -> int:
    """The generators' seed for a search's own `seed`, to search on (`heldout`) or to confirm on (`unseen`)."""
    return FIRST_SEED + 2 * seed + {"heldout": 0, "unseen": 1}[split]


@dataclass(frozen=True)
class ProbeText:
    """A text of T tokens with its questions' answers: `ids` [T], and the token spans (first, end) of the answers."""

    ids: Tensor
    answers: list[tuple[int, int]]
    context: str


def beginning(tokenizer: Any) -> list[int]:
    """The token that a text begins with in this tokenizer's own reading of one, as a list; empty where there is none."""
    begins = tokenizer("a").input_ids[:1]
    return begins if begins == [tokenizer.bos_token_id] else []


def probe_texts(tokenizer: Any, contexts: int, length: int, seed: int, questions: int = QUESTIONS) -> list[ProbeText]:
    """`contexts` texts of about `length` tokens and their questions, the generators that need no data in turns.

    Raises ValueError for a length that a generator cannot reach.
    """
    forms = [name for name in generator_names() if not generator(name).NEEDS]
    texts = []
    for place, name in enumerate(forms[:contexts]):
        asked = documents(name, [length], len(range(place, contexts, len(forms))), questions, seed)
        texts += [_text(tokenizer, list(group)) for _, group in groupby(asked, itemgetter("context_id"))]
    return texts


def _text(tokenizer: Any, asked: list[dict[str, Any]]) -> ProbeText:
    """One context's documents as one text."""

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    before = beginning(tokenizer)
    text, spans = asked[0]["context"], []
    for document in asked:
        # As lm-eval splits a context from its continuation: by the tokens of the whole without those of the context.
        text += document["question"]
        first = len(before) + len(tokens(text))
        text += f" {document['answers'][0]}"
        spans.append((first, len(before) + len(tokens(text))))
        text += "."
    ids = torch.tensor(before + tokens(text))
    return ProbeText(ids, spans, asked[0]["context_id"])


@dataclass(frozen=True)
class Answers:
    """Of each question: the answer's mean negative log-probability a token, in nats, whether it is the likeliest, 0 or 1."""

    loss: np.ndarray
    right: np.ndarray


@torch.inference_mode()
def score(model: NHAForCausalLM, texts: list[ProbeText], hidden: list[Tensor]) -> Answers:
    """The answers to all questions from each text's hidden states, [1, T, hidden] as the last norm reads them."""
    loss, right = [], []
    for text, states in zip(texts, hidden, strict=True):
        places = torch.tensor([place for first, end in text.answers for place in range(first, end)], device=states.device)
        wanted = text.ids.to(states.device)[places]
        found = log_probabilities(model, states[0, places - 1])
        got = found.gather(-1, wanted[:, None])[:, 0].double().cpu().numpy()
        best = (found.argmax(-1) == wanted).cpu().numpy()
        start = 0
        for first, end in text.answers:
            part = slice(start, start + end - first)
            loss.append(-got[part].mean())
            right.append(float(best[part].all()))
            start += end - first
    return Answers(np.array(loss), np.array(right))
