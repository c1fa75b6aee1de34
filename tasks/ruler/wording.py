"""English words for keys and lists: 368 adjectives and 703 nouns of this project's choosing (`words/*.txt`).

No word stands inside another, so that looking for one in an answer cannot find another. RULER draws from the package
wonderwords, which has some eight thousand.

    >>> import numpy as np
    >>> pair(np.random.default_rng(0))
    'tepid-painter'
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent / "words"


@lru_cache(maxsize=2)
def listed(name: str) -> tuple[str, ...]:
    """The words of `words/NAME.txt`."""
    return tuple((_FOLDER / f"{name}.txt").read_text(encoding="utf-8").split())


def pair(rng: np.random.Generator) -> str:
    """An adjective and a noun, joined by a hyphen."""
    adjectives, nouns = listed("adjectives"), listed("nouns")
    return f"{adjectives[int(rng.integers(len(adjectives)))]}-{nouns[int(rng.integers(len(nouns)))]}"


def distinct(rng: np.random.Generator, count: int, pairs: bool = False) -> list[str]:
    """`count` different words, or pairs. Raises ValueError where there are not so many."""
    adjectives, nouns = listed("adjectives"), listed("nouns")
    there = len(adjectives) * len(nouns) if pairs else len(adjectives) + len(nouns)
    if count > there:
        raise ValueError(f"{count} different {'pairs' if pairs else 'words'} were asked for, and there are {there}")
    chosen = (int(i) for i in rng.permutation(there)[:count])
    if pairs:
        return [f"{adjectives[i // len(nouns)]}-{nouns[i % len(nouns)]}" for i in chosen]
    return [(adjectives + nouns)[i] for i in chosen]


def single_words() -> int:
    """How many words there are."""
    return len(listed("adjectives")) + len(listed("nouns"))
