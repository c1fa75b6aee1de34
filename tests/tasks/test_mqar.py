"""MQAR sequences: against the definition in plain loops, and the law of their gaps."""

from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from tasks.synthetic.mqar import NOT_ASKED, mqar, split_rng

SETTINGS = [(64, 4, 8192, False), (64, 16, 64, False), (63, 5, 100, True), (8, 2, 16, True), (4, 1, 4, False)]


def plain(length, pairs, gaps, filler):
    """(inputs, labels) of one sequence as lists: pairs side by side, then each key at 2 * gap behind them."""
    inputs = [token for pair in pairs for token in pair]
    inputs += filler[len(inputs) :]
    labels = [NOT_ASKED] * length
    for (key, value), gap in zip(pairs, gaps, strict=True):
        place = 2 * len(pairs) + 2 * gap
        inputs[place] = key
        labels[place] = value
    return inputs, labels


@pytest.mark.parametrize(("length", "pairs", "vocabulary", "random_filler"), SETTINGS)
def test_sequences_are_as_defined(length, pairs, vocabulary, random_filler):
    inputs, labels = mqar(
        np.random.default_rng(3), 1500, length=length, pairs=pairs, vocabulary=vocabulary, random_filler=random_filler
    )
    assert inputs.shape == labels.shape == (1500, length) and inputs.dtype == labels.dtype == np.int32
    fillers = set()
    for row, asked in zip(inputs.tolist(), labels.tolist(), strict=True):
        told = [(row[2 * i], row[2 * i + 1]) for i in range(pairs)]
        keys, values = {key for key, _ in told}, {value for _, value in told}
        assert len(keys) == len(values) == pairs
        assert keys <= set(range(1, vocabulary // 2)) and values <= set(range(vocabulary // 2, vocabulary))
        places = [place for place in range(length) if asked[place] != NOT_ASKED]
        by_key = {row[place]: (place - 2 * pairs) // 2 for place in places}
        # Each key is asked exactly once, and by its own value.
        assert len(places) == pairs and by_key.keys() == keys
        gaps = [by_key[key] for key, _ in told]
        filler = row if random_filler else [0] * length
        assert (row, asked) == plain(length, told, gaps, filler)
        fillers |= {row[place] for place in range(2 * pairs, length) if place not in places}
    if random_filler:
        assert fillers == set(range(vocabulary))


def drawn_in_turn(law, count):
    """The probability of each ordered draw of `count` without replacement, by its definition."""
    found = {}
    for order in permutations(range(len(law)), count):
        left, chance = 1.0, 1.0
        for place in order:
            chance *= law[place] / left
            left -= law[place]
        found[order] = chance
    return found


def test_gaps_follow_the_power_law():
    """One pair: the law itself; two: each ordered draw of two without replacement."""
    for pairs, length, power in ((1, 22, 0.01), (2, 16, 0.4)):
        space = (length - 2 * pairs) // 2
        law = np.arange(1, space + 1) ** (power - 1.0)
        wanted = drawn_in_turn((law / law.sum()).tolist(), pairs)
        inputs, labels = mqar(np.random.default_rng(0), 40_000, length=length, pairs=pairs, vocabulary=32, power=power)
        counts = dict.fromkeys(wanted, 0)
        for row, asked in zip(inputs.tolist(), labels.tolist(), strict=True):
            at = {row[place]: (place - 2 * pairs) // 2 for place in range(length) if asked[place] != NOT_ASKED}
            counts[tuple(at[row[2 * i]] for i in range(pairs))] += 1
        assert chisquare(list(counts.values()), [40_000 * wanted[order] for order in counts]).pvalue > 1e-3


def test_keys_and_values_are_drawn_evenly():
    inputs, _ = mqar(np.random.default_rng(1), 30_000, length=8, pairs=2, vocabulary=10)
    for first, places in ((1, [0, 2]), (5, [1, 3])):
        among = range(first, first + (4 if first == 1 else 5))
        drawn = [tuple(sorted(row)) for row in inputs[:, places].tolist()]
        counts = [drawn.count(pair) for pair in combinations(among, 2)]
        assert sum(counts) == 30_000 and chisquare(counts).pvalue > 1e-3


def test_splits_seeds_and_settings_are_streams_of_their_own():
    def rows(*where):
        return mqar(split_rng(*where), 300, length=64, pairs=4)[0]

    kept = rows(0, "train", 64, 4)
    assert np.array_equal(kept, rows(0, "train", 64, 4))
    # The first rows of a larger set need not be those of a smaller one; other streams share no sequence.
    seen = {row.tobytes() for row in kept}
    for where in ((0, "selection", 64, 4), (0, "test", 64, 4), (1, "train", 64, 4), (0, "train", 128, 4)):
        assert not seen & {row.tobytes() for row in rows(*where)}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 64, "pairs": 17}, "17 pairs and as many queries in 64 tokens"),
        ({"length": 64, "pairs": 0}, "at least 1 pair"),
        ({"length": 64, "pairs": 4, "vocabulary": 8}, "at least 10 tokens"),
    ],
)
def test_what_does_not_fit_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        mqar(np.random.default_rng(0), 1, **settings)
