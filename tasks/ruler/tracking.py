"""RULER's variable tracking (vt): one value handed on from variable to variable, hidden in a repeated sentence.

    VAR QWHZE = 48213 ... VAR BDFUN = VAR QWHZE ... Find all variables that are assigned the value 48213

Five variables in four hops, in the order of the chain. A solved example with names of three letters, of at most 500 tokens
with its answer, stands before the question, drawn anew for each document.
"""

from itertools import pairwise

import numpy as np

from tasks.ruler.niah import REPEATED
from tasks.ruler.prompts import Prompt, Setting, most_units

HOPS = 4
EXAMPLE_TOKENS = 500
# "assgined" is RULER's own spelling, and scores depend on the wording.
TEMPLATE = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find all "
    "variables that are assigned the value {value} in the text above. Answer: According to the chain(s) of variable assignment "
    "in the text above, {count} variables are assgined the value {value}, they are:"
)


class Tracking:
    """Prompts of variable tracking; a unit is one repetition of the sentence."""

    answer_room = 30
    fewest = HOPS + 1
    count = None

    def __init__(self, example_units: int) -> None:
        self.example_units = example_units

    def build(self, number: int, rng: np.random.Generator, units: int) -> Prompt:
        example = puzzle(rng, self.example_units, letters=3)
        asked = puzzle(rng, units, letters=5)
        return Prompt(f"{example.text} {' '.join(example.answers)}\n\n\n\n{asked.text}", asked.answers, asked.depths)


def puzzle(rng: np.random.Generator, units: int, letters: int) -> Prompt:
    """One chain among `units` repeated sentences, at least HOPS + 1 of them; the variables' names have so many letters."""
    names: dict[str, None] = {}
    while len(names) < HOPS + 1:
        names["".join(chr(65 + int(i)) for i in rng.integers(26, size=letters))] = None
    chain, value = list(names), int(rng.integers(10_000, 100_000))
    steps = [f"VAR {chain[0]} = {value}"]
    steps += [f"VAR {name} = VAR {before} " for before, name in pairwise(chain)]
    places = sorted(int(i) for i in rng.permutation(units)[: len(steps)])
    sentences = [f"{REPEATED}\n"] * units
    for place, step in reversed(list(zip(places, steps, strict=True))):
        sentences.insert(place, step)
    context = " ".join(sentences).replace(". \n", ".\n")
    text = TEMPLATE.format(context=context, value=value, count=len(chain))
    return Prompt(text, chain, [place / units for place in places])


def make(kind: str, setting: Setting) -> Tracking:
    """Variable tracking. Raises ValueError for a length that cannot hold the example."""

    def size(units: int) -> int:
        # Names and values differ little in tokens, so one example's size stands for all.
        example = puzzle(np.random.default_rng(0), units, letters=3)
        return len(setting.tokenizer(f"{example.text} {' '.join(example.answers)}")["input_ids"]) + Tracking.answer_room

    units = most_units(size, EXAMPLE_TOKENS, Tracking.fewest, Tracking.fewest)
    if units is None:
        raise ValueError(f"{kind}: an example takes more than {EXAMPLE_TOKENS} of this tokenizer's tokens: give another one")
    return Tracking(units)
