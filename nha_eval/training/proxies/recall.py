"""Recall in context, in forms that a language model of tens of millions of weights can do: nothing is generated, the answer's
tokens are given and asked one by one.

- `passage`: a passage of the measured text, other text, and the passage again: the share of its tokens foretold right.
- `random`: the same with random tokens, which no text helps to foretell (the induction of arXiv 2209.11895).
- `fact`: three facts of the recall text's forms (docs/TEXT.md), other text, and the beginning of a sentence that says one of
  them again: whether all tokens of its value are foretold right.

Each sequence is asked once more with what was told taken out and another of its kind in its place (`control`): what is right
even so was not recalled. What is not foretold yet may be likelier already: the nats of the asked tokens are kept as well.

    recall_tasks(data, tokenizer, spec)[0].answered(model, device, dtype)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from models.modeling import NHAForCausalLM
from nha_eval.text.recall_text import FORMS as FACTS
from nha_eval.training.proxies.data import Data
from nha_eval.training.proxies.measure import AT_ONCE, equal_parts
from nha_eval.training.proxies.spec import ProxySpec

PASSAGE = 32  # tokens that are met again
CUE = 4  # of these, the first that are not asked: by them the model finds the passage
TOLD = 3  # facts
_STREAM = 0xEC0  # beside the seed, so that no other use of it draws the same numbers


@dataclass(frozen=True)
class Asked:
    """One sequence: tokens [T], and where the asked ones begin and end."""

    tokens: np.ndarray
    begin: int
    end: int


@dataclass(frozen=True)
class RecallTask:
    """The sequences of a form and distance, and the same with what was told taken out."""

    form: str
    distance: int
    told: list[Asked]
    control: list[Asked]

    def answered(self, model: NHAForCausalLM, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """`right` and `control`, a share a sequence: of the asked tokens, for `fact` 1 where all are right and else 0; and
        `right_nats`, `control_nats`, the mean loss of these tokens in nats.
        """
        found = {}
        for name, asked in (("right", self.told), ("control", self.control)):
            shares, nats = foretold(model, asked, device, dtype)
            found[name] = [round(float(x == 1 if self.form == "fact" else x), 4) for x in shares]
            found[f"{name}_nats"] = [round(float(x), 4) for x in nats]
        return {"form": self.form, "distance": self.distance, **found}


def recall_tasks(data: Data, tokenizer: Any, spec: ProxySpec) -> list[RecallTask]:
    """The tasks of a spec: a function of the measured text, the tokenizer and the spec alone."""
    makers = {"passage": _passage, "random": _random, "fact": _fact}
    tasks = []
    for number, form in enumerate(makers):
        if form not in spec.recall.forms:
            continue
        for distance in sorted(set(spec.recall.distances)):
            rng = np.random.default_rng([spec.text.seed, number, distance, _STREAM])
            pairs = [makers[form](rng, data, tokenizer, distance) for _ in range(spec.recall.sequences)]
            tasks.append(RecallTask(form, distance, *map(list, zip(*pairs, strict=True))))
    return tasks


def _passage(rng: np.random.Generator, data: Data, tokenizer: Any, distance: int) -> tuple[Asked, Asked]:
    return again(rng, data.tokens, distance, *(excerpt(rng, data.tokens, PASSAGE) for _ in range(2)))


def _random(rng: np.random.Generator, data: Data, tokenizer: Any, distance: int) -> tuple[Asked, Asked]:
    first, other = rng.integers(data.vocabulary, size=(2, PASSAGE))
    return again(rng, data.tokens, distance, first, other)


def again(
    rng: np.random.Generator, tokens: np.ndarray, distance: int, first: np.ndarray, other: np.ndarray
) -> tuple[Asked, Asked]:
    """`first`, so many of `tokens`, and `first` again, asked behind its cue; and the same with `other` in the first place."""
    between = excerpt(rng, tokens, distance)
    begin = len(first) + distance + CUE
    told, control = (
        Asked(np.concatenate([shown, between, first]), begin, begin + len(first) - CUE) for shown in (first, other)
    )
    return told, control


def _fact(rng: np.random.Generator, data: Data, tokenizer: Any, distance: int) -> tuple[Asked, Asked]:
    form = list(FACTS.values())[int(rng.integers(len(FACTS)))]
    sheet, other = form(rng, TOLD), form(rng, TOLD)
    fact = sheet.facts[int(rng.integers(len(sheet.facts)))]
    between = excerpt(rng, data.tokens, distance)
    cue, value = fact.restated[: fact.restated.index(fact.value)], fact.value
    if cue.endswith(" "):
        cue, value = cue[:-1], f" {value}"
    asked, answer = _tokens(tokenizer, f"\n\n{cue}"), _tokens(tokenizer, value)
    found = []
    for told in (sheet, other):
        facts = (told.joint or "\n\n").join(each.stated for each in told.facts)
        before = np.concatenate([_tokens(tokenizer, f"{told.opening}\n\n{facts}\n\n"), between, asked])
        found.append(Asked(np.concatenate([before, answer]), len(before), len(before) + len(answer)))
    return found[0], found[1]


def excerpt(rng: np.random.Generator, tokens: np.ndarray, count: int) -> np.ndarray:
    """So many tokens in a row, from anywhere."""
    begin = int(rng.integers(max(1, len(tokens) - count)))
    return np.asarray(tokens[begin : begin + count], np.int64)


def _tokens(tokenizer: Any, text: str) -> np.ndarray:
    return np.array(
        tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"], np.int64
    )


@torch.no_grad()
def foretold(
    model: NHAForCausalLM, asked: list[Asked], device: torch.device, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """(the share of asked tokens foretold right, their mean loss in nats), one a sequence."""
    was_training = model.training
    model.eval()
    longest = max(len(one.tokens) for one in asked)
    ids = np.zeros((len(asked), longest), np.int64)
    wanted = np.zeros((len(asked), longest), bool)
    for row, one in enumerate(asked):
        # What stands after the last asked token changes nothing before it.
        ids[row, : len(one.tokens)] = one.tokens
        wanted[row, one.begin : one.end] = True
    rows = max(1, AT_ONCE[device.type] // longest)
    shares, losses = [], []
    for part, done in equal_parts(len(asked), rows):
        batch = torch.from_numpy(ids[part]).to(device)
        chosen = torch.from_numpy(wanted[part]).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            hidden = model.model(batch, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[:, :-1][chosen[:, 1:]]).float()
        answers = batch[:, 1:][chosen[:, 1:]]
        each = (logits.argmax(-1) == answers).float(), F.cross_entropy(logits, answers, reduction="none")
        for found, values in zip((shares, losses), each, strict=True):
            placed = torch.zeros(chosen[:, 1:].shape, device=device)
            placed[chosen[:, 1:]] = values
            found.append((placed.sum(1) / chosen.sum(1))[done:].cpu().numpy())
    model.train(was_training)
    return np.concatenate(shares), np.concatenate(losses)
