"""Copying: lists of words stand in filler text; the beginning of one is given again, and how it goes on is wanted.

No word stands in two lists, so that the last word given says where to go on; which words a list has is drawn at random, so that
the text alone tells the next one. A list begun is what SmolLM2-135M copies: asked for the sentence after one of the filler, it
makes up another.

    ... A thin door lay near the gate for years. apple, castle, ribbon, tunnel, ocean, yellow, button, harbor. The old ...

    apple, castle, ribbon, tunnel,  ->  ocean, yellow, button, harbor
"""

import numpy as np

from tasks.filler import pick_distinct, spread
from tasks.synthetic import Context, Question
from tasks.synthetic.needle import PLACES, WORDS

MIN_LENGTH = 256
NEEDS: tuple[str, ...] = ()

GIVEN, WANTED = 9, 6  # words of a list
_TAIL = 3 * (GIVEN + WANTED)  # tokens of a list, at most


def build(rng: np.random.Generator, length: int, questions: int) -> Context:
    """`questions` lists at evenly spread depths, each asked once; ValueError where there are not words enough for so many."""
    words = [*WORDS, *PLACES]
    most = len(words) // (GIVEN + WANTED)
    if questions > most:
        raise ValueError(f"copy: {questions} questions asked, at most {most} possible")
    drawn = pick_distinct(rng, words, questions * (GIVEN + WANTED))
    lists = [drawn[i::questions] for i in range(questions)]
    begun, ends = ([", ".join(own[part]) for own in lists] for part in (slice(GIVEN), slice(GIVEN, None)))
    text = spread(rng, [f"{begin}, {end}." for begin, end in zip(begun, ends, strict=True)], length - _TAIL)
    asked = [
        Question(f"\n\n{begin},", [end], depth, text.after(f"{begin},"))
        for begin, end, depth in zip(begun, ends, text.depths, strict=True)
    ]
    return Context(text.text, asked)
