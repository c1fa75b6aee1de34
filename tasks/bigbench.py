"""Commonsense tasks out of BIG-bench JSON, as documents for lm-eval's multiple choice.

A task's YAML names the BIG-bench task under `metadata: source:`. `shots` examples, drawn by `seed`, become the split
`fewshot` and are left out of `test`; every document is shown the same ones, so their prefix is shared.
`shot_tokens: [least, most]` draws them among inputs of that length (by `tasks.counting`): it fixes how long the prefix is.

Right choices: BIG-bench scores each choice 0 or 1. Items with exactly one 1 are kept; any other has no single gold position,
so it is left out and the number is logged (none of the six tasks here has one). Choices keep one order in tasks whose items
all have the same labels (Yes/No), so that the constant answer is a label; elsewhere the right one takes each place in turn
(timedial's file has it always last), so that a constant place scores chance. Items are in random order by seed, so the first
n (`--limit n`) are a random sample.
"""

import logging
import zlib
from typing import TYPE_CHECKING

import numpy as np

from tasks.assets import bigbench_examples
from tasks.counting import count_tokens

if TYPE_CHECKING:
    from datasets import Dataset

_MASK = "<MASK>"
_LABELS_IN_ORDER = ("Yes", "No", "correct", "incorrect")
_log = logging.getLogger(__name__)


def documents(source: str, seed: int = 0) -> list[dict]:
    """All usable items: question, choices, gold (index), answer (the choice's text), context_id, item (its place in the file).

    An input with <MASK> (timedial) is read as a dialogue to go on with: question is what comes before the mask, and each choice
    goes on to the end of the masked turn. Items that share a dialogue share their context_id.
    """
    examples = bigbench_examples(source)
    fixed = len({frozenset(example["target_scores"]) for example in examples}) == 1
    usable = [i for i, example in enumerate(examples) if _has_one_right(example["target_scores"])]
    if dropped := len(examples) - len(usable):
        _log.warning("%s: %d of %d items left out: not exactly one right choice", source, dropped, len(examples))
    rng = np.random.default_rng([seed, zlib.crc32(source.encode())])
    docs = []
    for rank, place in enumerate(rng.permutation(len(usable))):
        item = usable[int(place)]
        scores = examples[item]["target_scores"]
        labels = _fixed_order(scores) if fixed else _in_turn(scores, rank, rng)
        docs.append(_document(source, item, examples[item], labels))
    return docs


def _has_one_right(scores: dict[str, float]) -> bool:
    return sorted(scores.values()) == [0] * (len(scores) - 1) + [1]


def _fixed_order(scores: dict[str, float]) -> list[str]:
    last = len(_LABELS_IN_ORDER)
    return sorted(scores, key=lambda label: (_LABELS_IN_ORDER.index(label) if label in _LABELS_IN_ORDER else last, label))


def _in_turn(scores: dict[str, float], rank: int, rng: np.random.Generator) -> list[str]:
    """Choices in random order, but for the right one, whose place goes round with the item's rank."""
    labels = list(scores)
    wrong = [labels[int(i)] for i in rng.permutation(len(labels)) if scores[labels[int(i)]] != 1]
    right = next(label for label in labels if scores[label] == 1)
    place = rank % len(labels)
    return [*wrong[:place], right, *wrong[place:]]


def _document(source: str, item: int, example: dict, labels: list[str]) -> dict:
    gold = next(i for i, label in enumerate(labels) if example["target_scores"][label] == 1)
    question, choices = example["input"].strip(), [label.strip() for label in labels]
    context = question
    if _MASK in question:
        dialogue = question.partition("Context:")[2].strip()
        before, _, after = dialogue.partition(_MASK)
        ending = after.partition("\n")[0].rstrip()
        question, choices = before.rstrip(), [choice + ending for choice in choices]
        # Masks of one dialogue stand at different places; its beginning tells it.
        context = dialogue[:60]
    return {
        "question": question,
        "choices": choices,
        "gold": gold,
        "answer": choices[gold],
        "context_id": f"{source}-{zlib.crc32(context.encode()):08x}",
        "item": item,
    }


def split(source: str, shots: int, seed: int, shot_tokens: tuple[int, int] | None = None) -> dict[str, list[dict]]:
    """{"test": ..., "fewshot": ...}; documents that share a context with a few-shot example are left out of the test as well.

    Raises ValueError where there are not enough items for the shots.
    """
    docs = documents(source, seed)
    if not shots:
        return {"test": docs}
    least, most = shot_tokens or (0, 10**9)
    chosen: dict[str, dict] = {}
    for doc in reversed(docs):
        if len(chosen) < shots and least <= count_tokens(f"{doc['question']} {doc['answer']}") <= most:
            chosen.setdefault(doc["context_id"], doc)
    test = [doc for doc in docs if doc["context_id"] not in chosen]
    if len(chosen) < shots or not test:
        raise ValueError(f"{source}: {shots} shots asked, {len(chosen)} of {len(docs)} items fit; ask for fewer")
    return {"test": test, "fewshot": list(chosen.values())}


def dataset(
    source: str, shots: int = 0, seed: int = 0, shot_tokens: tuple[int, int] | None = None, **_unused
) -> "dict[str, Dataset]":
    """lm-eval's `custom_dataset` for a task's metadata; other metadata is let pass."""
    from datasets import Dataset

    return {name: Dataset.from_list(docs) for name, docs in split(source, int(shots), int(seed), shot_tokens).items()}
