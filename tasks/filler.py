"""Text that says nothing, and how marked sentences are spread through it.

Filler sentences are drawn anew each time from small word lists, so the text around a needle neither repeats nor helps. Each
sentence counts 8 to 13 tokens by `tasks.counting`, which is how closely a length can be met.

    >>> import numpy as np
    >>> filler_sentence(np.random.default_rng(0))
    'A heavy house stood near the bright hill until noon.'
"""

from dataclasses import dataclass

import numpy as np

from tasks.counting import count_tokens


def words(listed: str) -> list[str]:
    """The words of a list written as a sentence."""
    return listed.split()


ADJECTIVES = words(
    "old quiet small large green wooden narrow heavy warm cold simple bright dry long short soft clean round dark "
    "light plain slow steady gentle broad deep thin thick"
)
NOUNS = words(
    "road field house tree cloud stone wall door table chair lamp hill path boat cart fence roof window street "
    "stream bench gate valley pond lake barn clock curtain blanket basket"
)
VERBS = words("stood rested waited stayed lay remained leaned slept faded shone")
PLACES = words("near under behind beside beyond above below against")
TIMES = [
    "all day",
    "all night",
    "for some days",
    "until noon",
    "in the rain",
    "in the sun",
    "through the winter",
    "in the morning",
    "after dinner",
    "for years",
]


@dataclass(frozen=True)
class Spread:
    """A text and where its marked sentences begin: `depths[i]` in [0, 1], by tokens before sentence i over all tokens."""

    text: str
    depths: list[float]

    def after(self, opening: str) -> int:
        """Where what follows `opening` (the one sentence's words before an answer) and a space begins, in characters."""
        return self.text.index(f"{opening} ") + len(opening) + 1


def pick(rng: np.random.Generator, listed: list[str]) -> str:
    """One word at random."""
    return listed[int(rng.integers(len(listed)))]


def pick_distinct(rng: np.random.Generator, listed: list[str], count: int) -> list[str]:
    """`count` different words in random order."""
    return [listed[int(i)] for i in rng.permutation(len(listed))[:count]]


def filler_sentence(rng: np.random.Generator) -> str:
    """One grammatical sentence without content."""
    article = pick(rng, ["The", "A"])
    first, second = pick_distinct(rng, NOUNS, 2)
    thing, other = pick_distinct(rng, ADJECTIVES, 2)
    return f"{article} {thing} {first} {pick(rng, VERBS)} {pick(rng, PLACES)} the {other} {second} {pick(rng, TIMES)}."


def spread(rng: np.random.Generator, marked: list[str], budget: int) -> Spread:
    """A text of about `budget` tokens (never more) holding the `marked` sentences in this order, evenly spread.

    Sentence i stands at a random place within the i-th of len(marked) equal parts of the text. Raises ValueError where they
    leave no room for filler.
    """
    sizes = [count_tokens(sentence) for sentence in marked]
    room = budget - sum(sizes)
    if room < 0:
        raise ValueError(f"{len(marked)} sentences of {sum(sizes)} tokens do not fit into {budget} tokens")
    filler: list[str] = []
    used = 0
    while True:
        sentence = filler_sentence(rng)
        size = count_tokens(sentence)
        if used + size > room:
            break
        filler.append(sentence)
        used += size
    count = len(marked)
    places = sorted(int((i + rng.random()) * (len(filler) + 1) / count) for i in range(count))
    sentences: list[str] = []
    starts: list[int] = []
    before = 0
    next_marked = 0
    for position in range(len(filler) + 1):
        while next_marked < count and places[next_marked] == position:
            sentences.append(marked[next_marked])
            starts.append(before)
            before += sizes[next_marked]
            next_marked += 1
        if position < len(filler):
            sentences.append(filler[position])
            before += count_tokens(filler[position])
    return Spread(" ".join(sentences), [start / max(before, 1) for start in starts])
