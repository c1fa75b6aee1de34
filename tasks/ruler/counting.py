"""RULER's two tasks of counting words: common words (cwe) among others that are less so, frequent ones (fwe) in coded text.

cwe: a numbered list, `1. harbor 2. quiet ...`, in which ten words stand 30 times each and all others 3 times; below 4096 tokens
6 times and once. A solved example of 40 words (10 times and 3) stands before it; below 4096 of 20 words (3 times and once).
Where all words there are do not fill the length (from some 16,384 tokens on), all are pairs: `quiet-harbor`.

fwe: words of six random letters, the k-th as often as a zeta distribution with exponent 2 has it; the first is written "..."
and to be ignored, the next three are asked for.
"""

import math
from collections.abc import Sequence

import numpy as np

from tasks.ruler.prompts import Prompt, Setting
from tasks.ruler.wording import distinct, single_words

SHORT = 4096  # tokens; below it cwe has fewer repetitions
COMMON = 10
CWE = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most "
    "often.\n{context}\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 words that appear "
    "most often in the list are:"
)
NOISE = "..."
LETTERS = 6
TOKENS_A_CODE = 50  # a word of the vocabulary for so many tokens of length
FWE = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded "
    "words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most "
    "frequently appeared words in the above coded text? Answer: According to the coded text above, the three most frequently "
    "appeared words are:"
)


def _shuffled(rng: np.random.Generator, words: Sequence[str]) -> list[str]:
    return [words[int(i)] for i in rng.permutation(len(words))]


def numbered(words: Sequence[str]) -> str:
    """`1. first 2. second ...`"""
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))


class CommonWords:
    """Prompts of cwe; a unit is a word, with all its repetitions."""

    answer_room = 120
    fewest = COMMON + 1
    count = None

    def __init__(self, length: int, pairs: bool = False) -> None:
        self.pairs = pairs
        self.example, self.repeats = ((20, 3, 1), (6, 1)) if length < SHORT else ((40, 10, 3), (30, 3))

    def build(self, number: int, rng: np.random.Generator, units: int) -> Prompt:
        example, answers = self._list(rng, *self.example)
        text, common = self._list(rng, units, *self.repeats)
        return Prompt(f"{example} {numbered(answers)}\n{text}", common)

    def _list(self, rng: np.random.Generator, units: int, often: int, seldom: int) -> tuple[str, list[str]]:
        words = distinct(rng, units, self.pairs)
        common, others = words[:COMMON], words[COMMON:]
        return CWE.format(context=numbered(_shuffled(rng, common * often + others * seldom))), common


class FrequentWords:
    """Prompts of fwe; a unit is a word of the text, before its share is rounded down."""

    answer_room = 50
    # From here on the fourth code stands more often than the fifth.
    fewest = 100
    count = None

    def __init__(self, length: int) -> None:
        self.vocabulary = max(5, length // TOKENS_A_CODE)

    def build(self, number: int, rng: np.random.Generator, units: int) -> Prompt:
        codes: dict[str, None] = {NOISE: None}
        while len(codes) < self.vocabulary:
            codes["".join(chr(97 + int(i)) for i in rng.integers(26, size=LETTERS))] = None
        vocabulary = list(codes)
        # zeta(2) is pi^2 / 6.
        shares = [units / k**2 / (math.pi**2 / 6) for k in range(1, self.vocabulary + 1)]
        words = [word for word, share in zip(vocabulary, shares, strict=True) for _ in range(int(share))]
        return Prompt(FWE.format(context=" ".join(_shuffled(rng, words))), vocabulary[1:4])


def make(kind: str, setting: Setting) -> CommonWords | FrequentWords:
    """cwe or fwe at the setting's length."""
    if kind == "fwe":
        return FrequentWords(setting.length)
    with_words = CommonWords(setting.length)
    whole = with_words.build(0, np.random.default_rng(0), single_words())
    tokens = len(setting.tokenizer(whole.text)["input_ids"])
    # With a quarter to spare, as words differ in tokens and a document must not run out of them.
    return CommonWords(setting.length, pairs=tokens < 1.25 * setting.length)
