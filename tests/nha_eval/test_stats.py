"""Intervals and corrections of single scores: against statsmodels and scipy, and against the truth of simulated evaluations."""

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from nha_eval.stats import bootstrap_stderr, clustered_stderr, effective_n, holm, score_interval, wilson_interval


def questions(rng, runs: int, contexts: int, each: int, bar: float = 0.0) -> np.ndarray:
    """Right or wrong answers, [runs, contexts * each]; those on one context go together."""
    together = rng.normal(size=(runs, contexts, 1))
    return (together + rng.normal(size=(runs, contexts, each)) > bar).astype(float).reshape(runs, -1)


@pytest.mark.parametrize(("right", "n"), [(0, 18), (1, 18), (9, 18), (18, 18), (1, 1), (0, 1), (317, 1000), (63, 1000)])
def test_wilson_is_statsmodels_and_scipys(right, n):
    interval = wilson_interval(right / n, n)
    assert interval == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-12)
    assert interval == pytest.approx(tuple(binomtest(right, n).proportion_ci(method="wilson")), abs=1e-12)


@pytest.mark.parametrize(("share", "n"), [(1.2, 10), (-0.1, 10), (0.5, 0)])
def test_wilson_of_what_is_no_share(share, n):
    with pytest.raises(ValueError, match="wanted is a share from 0 to 1"):
        wilson_interval(share, n)


def test_all_right_and_all_wrong_have_a_width():
    """18 questions that stand alone, then as 3 on each of 6 contexts, which may be worth 6 questions only."""
    for value, certain in ((0.0, 0), (1.0, 1)):
        alone, shared = score_interval([value] * 18, range(18)), score_interval([value] * 18, np.repeat(range(6), 3))
        assert alone == pytest.approx(proportion_confint(18 * certain, 18, method="wilson"), abs=1e-12)
        assert shared == pytest.approx(proportion_confint(6 * certain, 6, method="wilson"), abs=1e-12)
        assert alone[certain] == shared[certain] == value
    assert score_interval([1.0], [0]) == pytest.approx(proportion_confint(1, 1, method="wilson"))


def test_effective_documents():
    alike = np.repeat([0.0, 1.0] * 20, 5)
    contexts = np.repeat(np.arange(40), 5)
    # Five questions with one answer are one question, but for the few degrees of freedom.
    assert effective_n(alike, contexts) == pytest.approx(39, rel=0.08)
    rng = np.random.default_rng(0)
    unrelated = [effective_n(rng.random(200) < 0.5, contexts) for _ in range(200)]
    assert max(unrelated) <= 200 and np.median(unrelated) > 170
    assert effective_n(alike, range(200)) == 200
    assert effective_n([0.0, 1.0] * 6, np.repeat(range(6), 2)) == 12
    assert effective_n([0.0, 1.0], [0, 0]) == 1


@pytest.mark.parametrize("bar", [0.0, 2.0, -2.5])
@pytest.mark.parametrize(("contexts", "each"), [(8, 6), (40, 3), (60, 1)])
def test_intervals_cover_the_truth(contexts, each, bar):
    rng = np.random.default_rng(1)
    truth = questions(rng, 20_000, contexts, each, bar).mean()
    clusters = np.repeat(np.arange(contexts), each)
    bounds = np.array([score_interval(x, clusters) for x in questions(rng, 400, contexts, each, bar)])
    # A coverage of 95% gives fewer than 366 of 400 once in 900 times.
    assert ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).sum() >= 366


def test_wilson_over_questions_on_shared_contexts_covers_too_little():
    """What clustering is for: 8 contexts of 6 questions, taken as 48 that stand alone."""
    rng = np.random.default_rng(1)
    truth = questions(rng, 20_000, 8, 6).mean()
    bounds = np.array([wilson_interval(x.mean(), len(x)) for x in questions(rng, 400, 8, 6)])
    assert ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean() < 0.85


def test_intervals_of_other_values_are_students():
    from scipy.stats import ttest_1samp

    x = np.random.default_rng(2).normal(size=12)
    expected = ttest_1samp(x, 0).confidence_interval(0.95)
    assert score_interval(x, range(12)) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert score_interval([0.3] * 5, range(5)) is None
    assert score_interval([0.3, 0.4], [0, 0]) is None
    assert score_interval([], []) is None


@pytest.mark.parametrize("contexts", [7, 40])
def test_the_clustered_bootstrap_is_the_clustered_standard_error(contexts):
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(contexts), rng.integers(1, 9, contexts))
    x = rng.normal(size=len(clusters)) + rng.normal(size=contexts)[clusters]
    # Sums of unlike clusters also vary in their number of questions, a term of higher order.
    analytic, drawn = clustered_stderr(x, clusters), bootstrap_stderr(np.mean, list(x), clusters, 4000)
    assert drawn == pytest.approx(analytic, rel=0.12 if contexts == 7 else 0.04)
    assert drawn > 1.3 * bootstrap_stderr(np.mean, list(x), range(len(x)), 1000)
    even = np.repeat(np.arange(contexts), 4)
    x = rng.normal(size=len(even)) + rng.normal(size=contexts)[even]
    assert bootstrap_stderr(np.mean, list(x), even, 4000) == pytest.approx(clustered_stderr(x, even), rel=0.04)


def test_the_bootstrap_is_seeded_and_has_its_limits():
    x, clusters = list(range(20)), np.repeat(range(5), 4)
    assert bootstrap_stderr(np.median, x, clusters, 50, seed=1) == bootstrap_stderr(np.median, x, clusters, 50, seed=1)
    assert bootstrap_stderr(np.median, x, clusters, 50, seed=1) != bootstrap_stderr(np.median, x, clusters, 50, seed=2)
    assert bootstrap_stderr(np.median, x, [0] * 20, 50) is None
    with pytest.raises(ValueError, match="20 items but 2 clusters"):
        bootstrap_stderr(np.mean, x, [0, 1], 50)


def test_holm_is_statsmodels():
    rng = np.random.default_rng(4)
    for p in (
        [0.04],
        [0.01, 0.04, 0.03, 0.005],
        [0.5, 1.0, 0.0],
        [0.02, 0.02, 0.02],
        *(rng.random(n) ** 3 for n in (2, 9, 50)),
    ):
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)
    assert len(holm([])) == 0
    for p in ([0.5, 1.5], [float("nan")]):
        with pytest.raises(ValueError, match="p values from 0 to 1"):
            holm(p)
