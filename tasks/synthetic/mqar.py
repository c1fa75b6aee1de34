"""Multi-query associative recall (MQAR; Arora et al., arXiv 2312.04927): pairs of a key and a value, then keys asked again.

A sequence of `length` tokens opens with `pairs` pairs side by side. After them each key stands once more, somewhere, and there
the model has to say its value; all else is filler. With a vocabulary of 16 (keys 1 to 7, values 8 to 15), 2 pairs, 12 tokens:

    input    3 12  5  9  5  0  0  0  3  0  0  0
    label    -  -  -  -  9  -  -  - 12  -  -  -

Labels stand at the query itself, not a token further on, and are -100 elsewhere. A query stands 2 * gap tokens behind the
pairs; its gap is drawn from 0 .. (length - 2 * pairs) // 2 - 1 with probability proportional to (gap + 1) ** (power - 1), no
gap twice: near ones are likely, as in text. Keys and values are distinct within a sequence. Filler is token 0, or with
`random_filler` any token of the vocabulary, keys among them: another task, and to be told apart in records.

    from tasks.synthetic.mqar import mqar
    inputs, labels = mqar(np.random.default_rng(0), 1000, length=64, pairs=4)
"""

import numpy as np

NOT_ASKED = -100
FILLER = 0
SPLITS = ("train", "selection", "test")
# Rows drawn at a time: what is shuffled for them stays in a processor's cache.
_ROWS = 1024


def mqar(
    rng: np.random.Generator,
    examples: int,
    *,
    length: int,
    pairs: int,
    vocabulary: int = 8192,
    power: float = 0.01,
    random_filler: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, labels), each [examples, length] int32.

    vocabulary: tokens in all; keys are 1 .. vocabulary // 2 - 1, values from there to its end. power: a of the gaps' law.
    Raises ValueError where the queries do not fit into the length, or the pairs into the vocabulary.
    """
    check_setting(length, pairs, vocabulary)
    inputs = np.full((examples, length), FILLER, np.int32)
    labels = np.full((examples, length), NOT_ASKED, np.int32)
    first_value = vocabulary // 2
    law = np.arange(1, (length - 2 * pairs) // 2 + 1, dtype=np.float64) ** (power - 1)
    for begin in range(0, examples, _ROWS):
        part = slice(begin, min(begin + _ROWS, examples))
        count = part.stop - begin
        keys = 1 + _distinct(rng, count, first_value - 1, pairs)
        values = first_value + _distinct(rng, count, vocabulary - first_value, pairs)
        inputs[part, 0 : 2 * pairs : 2], inputs[part, 1 : 2 * pairs : 2] = keys, values
        # The order in which exponential clocks of these rates ring is that of drawing one after the other without replacement.
        clocks = rng.standard_exponential((count, len(law))) / law
        places = 2 * pairs + 2 * np.argsort(clocks, 1)[:, :pairs]
        if random_filler:
            inputs[part, 2 * pairs :] = rng.integers(vocabulary, size=(count, length - 2 * pairs))
        np.put_along_axis(inputs[part], places, keys, 1)
        np.put_along_axis(labels[part], places, values, 1)
    return inputs, labels


def split_rng(seed: int, split: str, length: int, pairs: int) -> np.random.Generator:
    """The stream of one split of a setting: streams of other splits, seeds and settings are independent of it."""
    return np.random.default_rng([seed, SPLITS.index(split), length, pairs])


def check_setting(length: int, pairs: int, vocabulary: int) -> None:
    """ValueError unless that many pairs and their queries fit."""
    if pairs < 1 or 4 * pairs > length:
        raise ValueError(
            f"{pairs} pairs and as many queries in {length} tokens; wanted at least 1 pair, and 4 times the pairs <= length"
        )
    if vocabulary // 2 - 1 < pairs:
        raise ValueError(f"{pairs} pairs of a vocabulary of {vocabulary} tokens; wanted at least {2 * pairs + 2} tokens")


def _distinct(rng: np.random.Generator, rows: int, among: int, count: int) -> np.ndarray:
    """[rows, count]: the first `count` places of a shuffle of 0 .. among - 1, a shuffle a row (Fisher and Yates)."""
    deck = np.tile(np.arange(among, dtype=np.int32), (rows, 1))
    row = np.arange(rows)
    for place in range(count):
        other = rng.integers(place, among, size=rows)
        deck[row, place], deck[row, other] = deck[row, other], deck[row, place].copy()
    return deck[:, :count]
