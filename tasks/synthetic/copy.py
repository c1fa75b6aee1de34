"""Copying: a sentence of the text is given once more, and the one that followed it is wanted. Sentences are filler, drawn from
word lists, so that the next one can be found in the text and nowhere else.

    ... The dry lake shone near the old gate until noon. A thin door lay behind the green hill for years. The cold ...

    The dry lake shone near the old gate until noon.  ->  A thin door lay behind the green hill for years
"""

import numpy as np

from tasks.counting import count_tokens
from tasks.filler import filler_sentence, spread
from tasks.synthetic import Context, Question

MIN_LENGTH = 256
NEEDS: tuple[str, ...] = ()


def build(rng: np.random.Generator, length: int, questions: int) -> Context:
    """`questions` sentences at evenly spread depths, each asked by the sentence before it."""
    pairs = []
    while len(pairs) < questions:
        pair = filler_sentence(rng), filler_sentence(rng)
        # A beginning or an answer that stood twice could be gone on with in two ways.
        if len({*pair, *(sentence for other in pairs for sentence in other)}) == 2 * len(pairs) + 2:
            pairs.append(pair)
    tail = max(count_tokens(f"{first} {second}") for first, second in pairs)
    while True:
        text = spread(rng, [f"{first} {second}" for first, second in pairs], length - tail)
        if all(text.text.count(sentence) == 1 for pair in pairs for sentence in pair):
            break
    asked = []
    for (first, second), depth in zip(pairs, text.depths, strict=True):
        asked.append(Question(f"\n\n{first}", [second.rstrip(".")], depth, text.after(first)))
    return Context(text.text, asked)
