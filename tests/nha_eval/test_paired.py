"""Tests of a difference: against statsmodels and scipy, how often they err on equal settings, and what they find."""

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.proportion import proportions_ztest

from nha_eval.paired import EXACT_BELOW, RESAMPLES, compare_pairs, mcnemar, tango_interval, wild_bootstrap
from nha_eval.stats import clustered_stderr


def answers(rng, runs, contexts, each, gap=0.0):
    """Right or wrong answers of two settings to the same questions, [2, runs, contexts, each]: some questions are hard, some
    contexts are, and some contexts are harder for one setting than for the other."""
    shared = 0.5 * rng.normal(size=(runs, contexts, 1)) + 0.6 * rng.normal(size=(runs, contexts, each))
    own = 0.7 * rng.normal(size=(2, runs, contexts, 1)) + 0.5 * rng.normal(size=(2, runs, contexts, each))
    return (shared + own + np.array([gap, 0.0]).reshape(2, 1, 1, 1) > 0).astype(float)


def alone(a, b):
    """How many A alone got right, and B alone, over the last two axes."""
    return ((a > b).sum((-2, -1)), (b > a).sum((-2, -1)))


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (3, 9), (9, 3), (7, 7), (12, 12), (5, 30), (400, 460)])
def test_mcnemar_is_statsmodels(a, b):
    exact = statsmodels_mcnemar([[50, a], [b, 20]], exact=True).pvalue
    assert mcnemar(a, b, "exact") == pytest.approx(exact, abs=1e-12)
    assert mcnemar(a, b) == pytest.approx(exact if a + b < EXACT_BELOW else mcnemar(a, b, "mid-p"), abs=1e-12)
    # By hand: half of what was seen counts, on both sides.
    from scipy.stats import binom

    chances = binom.pmf(np.arange(a + b + 1), a + b, 0.5)
    far = np.abs(np.arange(a + b + 1) - (a + b) / 2)
    seen = abs(a - b) / 2
    by_hand = chances[far > seen].sum() + 0.5 * chances[far == seen].sum() if seen else 1.0
    assert mcnemar(a, b, "mid-p") == pytest.approx(by_hand, abs=1e-12)
    if a + b > 100:
        assert mcnemar(a, b) == pytest.approx(
            statsmodels_mcnemar([[50, a], [b, 20]], exact=False, correction=False).pvalue, rel=0.02
        )


def test_mcnemar_errs_in_5_of_100_equal_tables():
    a, b = answers(np.random.default_rng(0), 20_000, 300, 1)
    pairs = alone(a, b)
    assert np.mean(sum(pairs) >= EXACT_BELOW) > 0.99
    assert 0.04 < np.mean(mcnemar(*pairs) <= 0.05) < 0.06
    assert 0.005 < np.mean(mcnemar(*pairs) <= 0.01) < 0.015
    # The exact form is on the safe side of that at any number of pairs.
    assert 0.02 < np.mean(mcnemar(*pairs, "exact") <= 0.05) < 0.045


@pytest.mark.parametrize("documents", [10, 25, 60])
def test_mcnemar_of_few_pairs_errs_in_at_most_5_of_100(documents):
    pairs = alone(*answers(np.random.default_rng(1), 20_000, documents, 1))
    assert np.mean(mcnemar(*pairs) <= 0.05) <= 0.05


def test_the_paired_test_finds_more_than_the_unpaired():
    a, b = answers(np.random.default_rng(2), 2_000, 300, 1, gap=0.2)
    paired = np.mean(mcnemar(*alone(a, b)) <= 0.05)
    right = np.stack([a.sum((1, 2)), b.sum((1, 2))], axis=1)
    unpaired = np.mean([proportions_ztest(counts, [300, 300])[1] <= 0.05 for counts in right])
    assert paired > unpaired + 0.05


@pytest.mark.parametrize(("contexts", "each", "least"), [(8, 6, 0.0), (20, 4, 0.025), (60, 3, 0.04)])
def test_the_bootstrap_errs_in_5_of_100_equal_tables_by_context(contexts, each, least):
    """At most 6 of 100, and with many contexts 4 at least; McNemar's test, for which questions stand alone, in far more."""
    a, b = answers(np.random.default_rng(3), 2_500, contexts, each)
    found = [wild_bootstrap(sums, [each] * contexts)[0] <= 0.05 for sums in (a - b).sum(-1)]
    assert least <= np.mean(found) < 0.06
    assert np.mean(mcnemar(*alone(a, b)) <= 0.05) > 0.1


def test_the_bootstrap_errs_no_more_where_clusters_weigh_unlike():
    """As in a suite: 60 documents that stand alone, and 20 texts of 6 questions that weigh twice as much a question."""
    rng = np.random.default_rng(11)
    alone_sums = np.subtract(*answers(rng, 2_500, 60, 1)).sum(-1)
    text_sums = 2 * np.subtract(*answers(rng, 2_500, 20, 6)).sum(-1)
    weights = [1.0] * 60 + [12.0] * 20
    found = [wild_bootstrap(sums, weights)[0] <= 0.05 for sums in np.concatenate([alone_sums, text_sums], axis=1)]
    assert 0.035 < np.mean(found) < 0.06


def test_drawing_8_contexts_with_replacement_errs_more_often():
    """Why signs are flipped: the other bootstrap of the same differences, around their mean, errs in 10 of 100."""
    rng = np.random.default_rng(3)
    a, b = answers(rng, 4_000, 8, 6)
    sums = (a - b).sum(-1)
    drawn = rng.multinomial(8, [1 / 8] * 8, size=2_000) @ sums.T / 8
    means = sums.mean(1)
    p = (1 + (np.abs(drawn - means) >= np.abs(means) - 1e-9).sum(0)) / 2_001
    assert 0.08 < np.mean(p <= 0.05) < 0.12


def test_the_bootstrap_finds_more_paired_than_unpaired_by_context():
    """Unpaired: the same contexts, but the difference over the standard error of two scores taken as unrelated."""
    a, b = answers(np.random.default_rng(4), 600, 40, 3, gap=0.5)
    paired = np.mean([wild_bootstrap(sums, [3] * 40)[0] <= 0.05 for sums in (a - b).sum(-1)])
    clusters = np.repeat(range(40), 3)
    errors = np.array([[clustered_stderr(x.ravel(), clusters) for x in pair] for pair in zip(a, b, strict=True)])
    gaps = a.mean((1, 2)) - b.mean((1, 2))
    unpaired = np.mean(np.abs(gaps) > 2.02 * np.sqrt((errors**2).sum(1)))
    assert paired > unpaired + 0.1


def test_the_bootstrap_is_mcnemar_where_questions_stand_alone():
    """Ten pairs differ of 12: 2^12 signs are gone through. Of 60, 20 differ: drawn, and so near it only."""
    for a_alone, b_alone, documents, tolerance in ((8, 2, 12, 1e-12), (15, 5, 60, 0.005)):
        sums = [1.0] * a_alone + [-1.0] * b_alone + [0.0] * (documents - a_alone - b_alone)
        p = wild_bootstrap(sums, [1] * documents)[0]
        assert p == pytest.approx(float(mcnemar(a_alone, b_alone, "exact")), abs=tolerance)


def test_the_bootstrap_is_scipys_permutation_of_pairs():
    """scipy swaps the two sides of pairs, which flips the sign of their difference."""
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=11), rng.normal(0.6, size=11)
    swapped = permutation_test((a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf)
    assert compare_pairs(a, b, range(11)).p == pytest.approx(swapped.pvalue, abs=1e-12)


@pytest.mark.parametrize("contexts", [12, 80])
def test_the_bootstraps_spread_is_the_clustered_standard_error(contexts):
    """Its interval is Student's over clusters, where sums of clusters are normal: the half widths lie within a tenth."""
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(contexts), 4)
    b = rng.normal(size=4 * contexts)
    a = b + 0.3 + rng.normal(size=contexts)[clusters] + 0.5 * rng.normal(size=4 * contexts)
    found = compare_pairs(a, b, clusters)
    sums = np.bincount(clusters, weights=a - b) / 4
    student = ttest_1samp(sums, 0).confidence_interval(0.95)
    assert found.difference == pytest.approx(sums.mean())
    assert (found.high - found.low) == pytest.approx(student.high - student.low, rel=0.1)
    width = 2 * 1.96 * clustered_stderr(a - b, clusters)
    assert (found.high - found.low) == pytest.approx(width, rel=0.25 if contexts == 12 else 0.08)
    # Taken as standing alone, the same differences would seem twice as sure.
    naive = compare_pairs(a, b, range(4 * contexts))
    assert (naive.high - naive.low) < 0.7 * (found.high - found.low)


def test_the_bootstraps_interval_holds_what_it_does_not_reject():
    rng = np.random.default_rng(7)
    for groups in (9, 30):
        sizes = rng.integers(1, 6, groups)
        sums = rng.normal(0.4, 1.0, groups) * sizes
        _, low, high = wild_bootstrap(sums, sizes)
        inside, outside = 1e-6, -1e-6
        for step, rejected in ((inside, False), (outside, True)):
            for delta in (low + step, high - step):
                p = wild_bootstrap(sums - delta * sizes, sizes)[0]
                # Of 30 clusters, ties count half in p but not in the interval; none are tied here.
                assert (p <= 0.05) == rejected


@pytest.mark.parametrize(("contexts", "each", "gap"), [(60, 1, 0.0), (60, 1, 2.5), (8, 6, 0.0), (8, 6, 1.5), (40, 3, 0.5)])
def test_intervals_of_right_and_wrong_cover_the_truth(contexts, each, gap):
    rng = np.random.default_rng(8)
    a, b = answers(rng, 20_000, contexts, each, gap)
    truth = (a - b).mean()
    clusters = np.repeat(np.arange(contexts), each)
    covered = 0
    for one, other in zip(a[:400], b[:400], strict=True):
        found = compare_pairs(one.ravel(), other.ravel(), clusters)
        covered += found.low <= truth <= found.high
    # A coverage of 95% gives fewer than 366 of 400 once in 900 times.
    assert covered >= 366


@pytest.mark.parametrize(("a_alone", "b_alone", "n"), [(0, 0, 18), (8, 0, 8), (3, 11, 40), (0, 5, 9), (25, 20, 300)])
def test_tangos_interval_ends_where_the_score_test_says(a_alone, b_alone, n):
    """The likelihood is maximised on a grid, at each end of the interval, and the score statistic there is 1.96."""
    low, high = tango_interval(a_alone, b_alone, n)
    assert tango_interval(b_alone, a_alone, n) == pytest.approx((-high, -low), abs=1e-8)
    for delta in {low, high} - {-1.0, 1.0}:
        q = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)[1:-1]
        rest = n - a_alone - b_alone
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = sum(k * np.log(p) for k, p in ((a_alone, q + delta), (b_alone, q), (rest, 1 - 2 * q - delta)) if k)
        best = q[np.nanargmax(likelihood)]
        statistic = (a_alone - b_alone - n * delta) / np.sqrt(n * (2 * best + delta - delta**2))
        assert abs(statistic) == pytest.approx(1.96, abs=5e-3)


def test_weights_are_what_a_score_is_over():
    """Texts of 5 and of 10 words: as if each word were a value of its own, and the words of a text went together."""
    rng = np.random.default_rng(10)
    words = np.repeat([5, 10], 12)
    a, b = (rng.normal(gap, 1.0, size=(24, 10)) for gap in (0.3, 0.0))
    for side in (a, b):
        side[:12, 5:] = 0
    text = np.repeat(np.arange(24), words)
    kept = np.arange(10) < words[:, None]
    whole = compare_pairs(a.sum(1), b.sum(1), range(24), weights=words)
    single = compare_pairs(a[kept], b[kept], text)
    for field in ("value_a", "value_b", "p", "low", "high"):
        assert getattr(whole, field) == pytest.approx(getattr(single, field), abs=1e-9)


def test_sure_differences_over_few_contexts_are_not_claimed():
    """A gets all right, B nothing: over 8 contexts 2 of 2^8 signs are as far out, over 5 that is no proof at 5%."""
    found = compare_pairs([1] * 48, [0] * 48, np.repeat(range(8), 6))
    assert found.p == 2 / 2**8 and found.high == 1.0 and 0.2 < found.low < 0.5
    assert (found.a_alone, found.b_alone, found.n, found.clusters) == (48, 0, 48, 8)
    assert compare_pairs([1] * 30, [0] * 30, np.repeat(range(5), 6)).p == 2 / 2**5
    assert compare_pairs([1] * 30, [0] * 30, [0] * 30).p == 1
    other = compare_pairs([0.7, 0.9, 0.8, 0.6], [0.1, 0.2, 0.3, 0.2], range(4))
    assert (other.low, other.high, other.p) == (None, None, 2 / 2**4)


def test_equal_answers_are_not_shown_to_be_equal_settings():
    found = compare_pairs([1, 0] * 9, [1, 0] * 9, range(18))
    assert found.p == 1 and -0.2 < found.low < -0.1 and 0.1 < found.high < 0.2
    same = compare_pairs([0.5, 0.25] * 9, [0.5, 0.25] * 9, range(18))
    assert (same.p, same.low, same.high) == (1, None, None)


def test_seeds_and_sides():
    rng = np.random.default_rng(9)
    a, b, clusters = rng.random(120), rng.random(120), np.repeat(range(40), 3)
    one = compare_pairs(a, b, clusters, seed=1)
    assert one == compare_pairs(a, b, clusters, seed=1) != compare_pairs(a, b, clusters, seed=2)
    turned = compare_pairs(b, a, clusters, seed=1)
    assert (turned.p, turned.low, turned.high) == pytest.approx((one.p, -one.high, -one.low))
    assert one.p == pytest.approx(compare_pairs(a, b, clusters, seed=2).p, abs=0.02)


@pytest.mark.parametrize(
    ("a", "b", "clusters", "settings", "message"),
    [
        ([1, 0], [1], [0, 1], {}, "2 values, 1 values, 2 clusters and 2 weights"),
        ([], [], [], {}, "at least 1"),
        ([1, float("nan")], [1, 0], [0, 1], {}, "wanted is a number a document"),
        ([1, 0], [1, 1], [0, 1], {"weights": [1, 0]}, "some weights are not above 0"),
        ([1, 0], [1, 1], [0, 1], {"resamples": 99}, f"99 resamples; wanted are at least {RESAMPLES}"),
    ],
)
def test_what_cannot_be_compared(a, b, clusters, settings, message):
    with pytest.raises(ValueError, match=message):
        compare_pairs(a, b, clusters, **settings)


def test_an_unknown_form_of_mcnemar():
    with pytest.raises(ValueError, match="form 'exakt'"):
        mcnemar(1, 2, "exakt")
