"""One prompt of RULER's needle tasks: haystack, needle, question, and the beginning of the answer."""

import uuid
from dataclasses import dataclass

import numpy as np

from tasks.synthetic.needle import PLACES, WORDS

KINDS = ("single_1", "multikey_2", "multikey_3")
_UUID_KEYS = ("multikey_3",)

REPEATED = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
PROMPT = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the {kind} "
    "afterwards.\n{haystack}\nWhat is the special magic {kind} for {key} mentioned in the provided text? "
    "The special magic {kind} for {key} mentioned in the provided text is"
)


@dataclass(frozen=True)
class Needle:
    """A prompt, its answer, where in the haystack the needle lies, in [0, 1], and where in the prompt the answer begins, in
    characters."""

    prompt: str
    answer: str
    depth: float
    place: int


def build(kind: str, rng: np.random.Generator, sentences: int) -> Needle:
    """The task `kind` over a haystack of `sentences` sentences, the needle not counted.

    What is asked does not depend on how many there are, so that a haystack can be made to fit.
    """
    drawn = _uuid if kind in _UUID_KEYS else _words
    asked = "uuid" if kind in _UUID_KEYS else "number"
    value_of = _uuid if kind in _UUID_KEYS else _number
    key, value, share = drawn(rng), value_of(rng), float(rng.random())
    if kind == "single_1":
        haystack = [REPEATED] * sentences
    else:
        haystack = []
        while len(haystack) < sentences:
            other = drawn(rng)
            # Another needle of the same key would be another answer.
            if other != key:
                haystack.append(NEEDLE.format(kind=asked, key=other, value=value_of(rng)))
    place = int(share * (sentences + 1))
    needle = NEEDLE.format(kind=asked, key=key, value=value)
    haystack.insert(place, needle)
    prompt = PROMPT.format(kind=asked, key=key, haystack="\n".join(haystack))
    return Needle(prompt, value, place / max(1, sentences), prompt.index(needle) + needle.index(value))


def _words(rng: np.random.Generator) -> str:
    return f"{WORDS[int(rng.integers(len(WORDS)))]}-{PLACES[int(rng.integers(len(PLACES)))]}"


def _number(rng: np.random.Generator) -> str:
    return str(int(rng.integers(10**6, 10**7)))


def _uuid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))
