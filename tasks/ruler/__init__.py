"""RULER (Hsieh et al. 2024, arXiv 2404.06654; github.com/NVIDIA/RULER): its 13 tasks at asked lengths, by code of this project.

A text is as long as fits: prompt, and the tokens that the task leaves to its answer (128 for needles, 30 for vt, 120 for cwe,
50 for fwe, 32 for questions), together at most `length` tokens of the model. The prompt ends in the beginning of the answer.
Prompts are worded as RULER words them; words for keys and lists are this project's own, and so are the random streams, hence
the protocol's name, `ruler, own words`. Six tasks need no data; needles in essays and the questions do (`material.py`).

lm-eval has a group of this name, with tokenizers that may run code of their own; it is not used here.

    lm_eval --model hf --model_args pretrained=FOLDER --include_path tasks --tasks ruler_vt --metadata '{"lengths": [4096]}'
"""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.hub_data import given_for
from tasks.places import nearest
from tasks.ruler import counting, material, niah, questions, tracking
from tasks.ruler.prompts import Asker, Prompt, Setting, most_units
from tasks.tokenizing import tokenizer_for

if TYPE_CHECKING:
    from datasets import Dataset

FIRST_SEED = 42  # RULER's; a run's own seed, 0 by default, is added
KINDS: dict[str, Callable[[str, Setting], Asker]] = {
    **dict.fromkeys(niah.KINDS, niah.make),
    "vt": tracking.make,
    **dict.fromkeys(("cwe", "fwe"), counting.make),
    **dict.fromkeys(("qa_1", "qa_2"), questions.make),
}
_log = logging.getLogger(__name__)


def dataset(
    kind: str,
    lengths: int | Sequence[int] = (4096,),
    least_length: int = 1,
    contexts: int = 500,
    seed: int = 0,
    sources: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
    tokenizer: str | None = None,
    pretrained: str | None = None,
    **_unused,
) -> "dict[str, Dataset]":
    """lm-eval's `custom_dataset`: {"test": `contexts` documents of each length (tokens, the answer's included)}.

    `sources` maps the name of the data that the kind needs to its hub id, `data` names or hub ids to local files in its place.
    Raises ValueError for an unknown kind, a length that is too short and data that cannot be used, OSError where the hub cannot
    be had.
    """
    from datasets import Dataset

    if kind not in KINDS:
        raise ValueError(f"no task of RULER named {kind!r} (there are: {', '.join(KINDS)})")
    wanted = [int(n) for n in ([lengths] if isinstance(lengths, int) else lengths)]
    if short := [n for n in wanted if n < least_length]:
        raise ValueError(f"{kind}: length {short[0]} is too short, the least is {least_length} tokens: give a longer one")
    counted_in = tokenizer_for(tokenizer, pretrained)
    found = None
    for source, hub_id in (sources or {}).items():
        found = material.read(source, given_for(source, hub_id, data or {}), hub_id)
    docs = [doc for n in wanted for doc in documents(kind, n, int(contexts), int(seed), counted_in, found)]
    return {"test": Dataset.from_list(docs)}


def documents(kind: str, length: int, contexts: int, seed: int, tokenizer: Any, data: Any = None) -> list[dict]:
    """Documents with the keys prompt, answers, context_id, length, depths, and depth and place (of the answer in the prompt, in
    characters) where one thing is asked for, else None.

    Each depends on kind, length, its number, seed and `data` (of `material.read`) alone, but for how much text fits, which the
    tokenizer decides. Questions without room for their own passages are left out. Raises ValueError where none is left.
    """
    asker = KINDS[kind](kind, Setting(length, tokenizer, lambda: data))
    docs, guess = [], length // 100
    numbers = range(contexts if asker.count is None else min(contexts, asker.count))
    for number in numbers:
        made = partial(_made, asker, kind, length, FIRST_SEED + seed, number)
        units = most_units(lambda n, made=made: _tokens(tokenizer, made(n)), length - asker.answer_room, asker.fewest, guess)
        if units is None:
            continue
        guess, prompt = units, made(units)
        docs.append(
            {
                "prompt": prompt.text,
                "answers": prompt.answers,
                "context_id": f"ruler-{kind}-{length}-{prompt.source or f'{seed}-{number}'}",
                "length": length,
                "depth": prompt.depths[0] if len(prompt.depths) == 1 else None,
                "depths": prompt.depths,
                "place": nearest(prompt.answers, prompt.text) if len(prompt.depths) == 1 else None,
            }
        )
    if not docs:
        raise ValueError(
            f"{kind}: length {length} cannot hold the question, the text it is on and {asker.answer_room} tokens of answer: "
            "give a longer one"
        )
    if dropped := len(numbers) - len(docs):
        _log.info(
            "%s: %d of %d questions left out: their passages alone are longer than %d tokens",
            kind,
            dropped,
            len(numbers),
            length,
        )
    return docs


def _made(asker: Asker, kind: str, length: int, seed: int, number: int, units: int) -> Prompt:
    rng = np.random.default_rng([seed, length, number, zlib.crc32(kind.encode())])
    return asker.build(number, rng, units)


def _tokens(tokenizer: Any, prompt: Prompt) -> int:
    return len(tokenizer(prompt.text)["input_ids"])
