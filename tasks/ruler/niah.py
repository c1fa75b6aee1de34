"""RULER's needles in a haystack, in their eight kinds.

    One of the special magic numbers for quiet-harbor is: 4821907.

A haystack is one sentence repeated (`repeat`), needles of the same wording with other keys (`needles`), or essays. In essays
the needles lie at depths drawn from 40 (0 to 100%, evenly spaced, in whole percent), elsewhere between any two sentences.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.ruler.prompts import Prompt, Setting
from tasks.ruler.wording import pair

DEPTHS = tuple(round(100 * i / 39) for i in range(40))  # percent
REPEATED = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the {kind} "
    "afterwards.\n{haystack}\nWhat is the special magic {kind} for {key} mentioned in the provided text? "
    "The special magic {kind} for {key} mentioned in the provided text is"
)
SEVERAL = (
    "Some special magic {kind}s are hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{kind}s afterwards.\n{haystack}\nWhat are all the special magic {kind}s for {key} mentioned in the provided text? "
    "The special magic {kind}s for {key} mentioned in the provided text are"
)


def _number(rng: np.random.Generator) -> str:
    return str(int(rng.integers(10**6, 10**7)))


def _uuid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


_DRAWN = {"word": pair, "number": _number, "uuid": _uuid}


@dataclass(frozen=True)
class Kind:
    """One of the eight. `keys` needles' keys, `values` for each of them, `asked` keys in the question."""

    haystack: str  # repeat | needles | essays
    key: str = "word"  # word | uuid
    value: str = "number"  # number | uuid
    keys: int = 1
    values: int = 1
    asked: int = 1


KINDS = {
    "niah_single_1": Kind("repeat"),
    "niah_single_2": Kind("essays"),
    "niah_single_3": Kind("essays", value="uuid"),
    "niah_multikey_1": Kind("essays", keys=4),
    "niah_multikey_2": Kind("needles"),
    "niah_multikey_3": Kind("needles", key="uuid", value="uuid"),
    "niah_multivalue": Kind("essays", values=4),
    "niah_multiquery": Kind("essays", keys=4, asked=4),
}


class Niah:
    """Prompts of one kind; a unit is a sentence of the haystack. `sentences` are the essays', begun again where they end."""

    answer_room = 128
    fewest = 1
    count = None

    def __init__(self, kind: Kind, sentences: Sequence[str] = ()) -> None:
        self.kind, self.sentences = kind, sentences

    def build(self, number: int, rng: np.random.Generator, units: int) -> Prompt:
        kind = self.kind
        keys = _distinct(rng, _DRAWN[kind.key], kind.keys)
        values = _distinct(rng, _DRAWN[kind.value], kind.keys * kind.values)
        asked = [int(i) for i in rng.permutation(kind.keys)[: kind.asked]]
        if kind.haystack == "essays":
            depths = [DEPTHS[int(i)] / 100 for i in rng.permutation(len(DEPTHS))[: len(values)]]
            places = [int(units * depth) for depth in depths]
        else:
            places = [int(rng.random() * (units + 1)) for _ in values]
            depths = [place / units for place in places]
        haystack = self._haystack(rng, units, keys)
        for i in sorted(range(len(values)), key=lambda i: places[i], reverse=True):
            needle = NEEDLE.format(kind=kind.value, key=keys[i // kind.values], value=values[i])
            haystack.insert(places[i], needle)
        wanted = [i for key in asked for i in range(key * kind.values, (key + 1) * kind.values)]
        text = (ONE if len(wanted) == 1 else SEVERAL).format(
            kind=kind.value,
            key=_listed([keys[i] for i in asked]),
            haystack=(" " if kind.haystack == "essays" else "\n").join(haystack),
        )
        return Prompt(text, [values[i] for i in wanted], [depths[i] for i in wanted])

    def _haystack(self, rng: np.random.Generator, units: int, keys: Sequence[str]) -> list[str]:
        if self.kind.haystack == "repeat":
            return [REPEATED] * units
        if self.kind.haystack == "essays":
            return [self.sentences[i % len(self.sentences)] for i in range(units)]
        haystack: list[str] = []
        while len(haystack) < units:
            other = _DRAWN[self.kind.key](rng)
            # Another needle of the same key would be another answer.
            if other not in keys:
                value = _DRAWN[self.kind.value](rng)
                haystack.append(NEEDLE.format(kind=self.kind.value, key=other, value=value))
        return haystack


def _distinct(rng: np.random.Generator, draw: Callable[[np.random.Generator], str], count: int) -> list[str]:
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[draw(rng)] = None
    return list(drawn)


def _listed(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])}, and {keys[-1]}"


def make(kind: str, setting: Setting) -> Niah:
    """The task of that name; essays are read where it needs them."""
    return Niah(KINDS[kind], setting.read() if KINDS[kind].haystack == "essays" else ())
