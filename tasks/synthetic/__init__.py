"""Recall tasks generated at an asked length; a generator is a file here, found by its name.

A generator module has `MIN_LENGTH` (tokens below which its form cannot be built), `NEEDS` (names of the assets it reads) and
`build(rng, length, questions) -> Context`. A task's YAML names it under `metadata: generator:` and points `custom_dataset`
at `dataset` below; the rest of the metadata (`lengths`, `contexts`, `questions`, `seed`) are its settings, which lm-eval's
`--metadata` or `TaskManager(metadata=...)` override:

    lm_eval --model hf --model_args pretrained=FOLDER --include_path tasks --tasks recall_needle \
        --metadata '{"lengths": [2048], "contexts": 20}'

Documents depend on (generator, seed, length, number of the context) alone: asking for more contexts or other lengths leaves the
rest as they were. Questions of one context share an identical prompt up to the question, and the same `context_id`.
"""

import importlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Question:
    """One question over a context: prompt = context + cue; the answer begins at the character `place` of the context, and
    `depth` in [0, 1] is where its sentence stands.
    """

    cue: str
    answers: list[str]
    depth: float
    place: int


@dataclass(frozen=True)
class Context:
    """A text with the questions asked over it."""

    text: str
    questions: list[Question]


# Makes tokens to train on, and no text.
NOT_TEXT = ("__init__", "mqar")


def generator_names() -> list[str]:
    """The generators there are: this folder's files that make text."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in NOT_TEXT)


def generator(name: str) -> ModuleType:
    """The generator module `name`; raises ValueError naming the nearest where there is none."""
    names = generator_names()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no generator named {name!r}{hint} (there are: {', '.join(names)})")
    return importlib.import_module(f"{__name__}.{name}")


def documents(name: str, lengths: Sequence[int], contexts: int, questions: int, seed: int) -> list[dict]:
    """All documents of a form: for each length, `contexts` contexts of `questions` questions (fewer where it has no more).

    Keys: context, question, answers, context_id, length (tokens by `tasks.counting`, the answer included), depth, place (of
    the answer in the prompt, in characters). Raises ValueError for a length the form cannot reach and AssetUnavailable where
    its data cannot be had.
    """
    module = generator(name)
    docs = []
    for length in lengths:
        if length < module.MIN_LENGTH:
            raise ValueError(f"{name}: length {length} is too short; the least is {module.MIN_LENGTH} tokens")
        for number in range(contexts):
            rng = np.random.default_rng([seed, length, number, zlib.crc32(name.encode())])
            built = module.build(rng, length, questions)
            for asked in built.questions:
                docs.append(
                    {
                        "context": built.text,
                        "question": asked.cue,
                        "answers": asked.answers,
                        "context_id": f"{name}-{seed}-{length}-{number}",
                        "length": length,
                        "depth": asked.depth,
                        "place": asked.place,
                    }
                )
    return docs


def dataset(
    generator: str,
    lengths: int | Sequence[int] = (512, 1024),
    contexts: int = 8,
    questions: int = 6,
    seed: int = 0,
    **_unused,
) -> "dict[str, Dataset]":
    """lm-eval's `custom_dataset`: {"test": documents}. Other metadata (the model's arguments among them) is let pass."""
    from datasets import Dataset

    wanted = [lengths] if isinstance(lengths, int | str) else list(lengths)
    wanted = [_whole("lengths", length) for length in wanted]
    if not wanted:
        raise ValueError(f"{generator}: lengths is empty; give at least one, such as [512]")
    settings = {"contexts": contexts, "questions": questions}
    counts = {key: _whole(key, value) for key, value in settings.items()}
    seed = _whole("seed", seed, least=0)
    return {"test": Dataset.from_list(documents(generator, wanted, seed=seed, **counts))}


def _whole(name: str, value, least: int = 1) -> int:
    try:
        whole = int(value)
    except (TypeError, ValueError):
        whole = None
    if whole is None or isinstance(value, bool) or whole < least or (isinstance(value, float) and whole != value):
        raise ValueError(f"{name}: {value!r} given, a whole number of at least {least} wanted")
    return whole
