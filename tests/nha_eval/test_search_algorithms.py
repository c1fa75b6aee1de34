"""The searches against brute force: on made-up losses, and on a tiny model whose important layer is known."""

import itertools

import numpy as np
import pytest
from search_models import loud_model, rows

from nha_eval.search import families
from nha_eval.search.evaluator import Evaluator, Memory
from nha_eval.search.evolution import evolve, repaired
from nha_eval.search.greedy import narrow, polish, widen
from nha_eval.search.problem import Problem, additive
from nha_eval.search.sensitivity import alone, sweep
from nha_eval.search.spending import Spending, state
from nha_eval.search.tables import front

pytestmark = pytest.mark.usefixtures("one_thread")
WINDOWS = (0, 8, None)
COST = {0: 10, 8: 40, None: 100}


def made_up(layers, seed, interaction=0.0):
    """Random losses that fall with the window, and products of neighbours' losses beside them; and who was asked."""
    rng = np.random.default_rng(seed)
    losses = {(i, None): 0.0 for i in range(layers)}
    for i in range(layers):
        losses[i, 8] = float(rng.exponential())
        losses[i, 0] = losses[i, 8] + float(rng.exponential())
    asked = []

    def objective(windows):
        asked.append(windows)
        each = [losses[i, window] for i, window in enumerate(windows)]
        return sum(each) + interaction * sum(a * b for a, b in itertools.pairwise(each))

    spending = Spending("bytes", lambda i, window: COST[window] + i, 7, (True,) * layers)
    return Problem(WINDOWS, spending, losses, objective), asked


def brute_force(problem, limit):
    """The least objective of all settings within the limit."""
    every = itertools.product(*([window if has else None for window in problem.windows] for has in problem.spending.has_window))
    return min(problem.objective(windows) for windows in every if problem.spending.of(windows) <= limit)


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_is_the_best_of_all_where_layers_add_up(seed):
    problem, asked = made_up(5, seed)
    for limit in (70, 180, 301, 420, 2000):
        found = additive(problem, limit)
        assert not asked
        assert problem.spending.of(found) <= limit
        assert problem.objective(found) == pytest.approx(brute_force(problem, limit))
        assert problem.objective(found) == pytest.approx(problem.sum_alone(found))
        asked.clear()
    with pytest.raises(ValueError, match="no setting costs 60 bytes"):
        additive(problem, 60)


@pytest.mark.parametrize("seed", range(6))
def test_the_searches_find_the_best_of_three_layers_and_three_windows(seed):
    problem, asked = made_up(3, seed, interaction=1.0)
    for limit in (90, 150, 220, 290):
        best = brute_force(problem, limit)
        ((_, down),) = narrow(problem, [limit])
        ((_, up),) = widen(problem, [limit])
        start = min((down, up, additive(problem, limit)), key=problem.objective)
        polished = polish(problem, start, limit)
        assert problem.objective(polished) == pytest.approx(best)
        evolved = evolve(problem, limit, [problem.cheapest], generations=20, seed=seed)
        assert problem.objective(evolved) == pytest.approx(best)
    assert all(len(windows) == 3 for windows in asked)


@pytest.mark.parametrize("interaction", [0.0, 0.3])
def test_every_setting_found_keeps_its_budget(interaction):
    problem, _ = made_up(12, 3, interaction)
    limits = [250, 600, 900]
    for walk in (narrow, widen):
        found = dict(walk(problem, limits))
        assert sorted(found) == limits
        for limit, windows in found.items():
            assert problem.spending.of(windows) <= limit
            better = polish(problem, windows, limit)
            assert problem.spending.of(better) <= limit
            assert problem.objective(better) <= problem.objective(windows)
    for limit in limits:
        starts = [problem.cheapest, problem.full]
        evolved = evolve(problem, limit, starts, generations=4, seed=0)
        assert problem.spending.of(evolved) <= limit
        assert problem.objective(evolved) <= problem.objective(problem.cheapest)
        assert evolve(problem, limit, starts, generations=4, seed=0) == evolved


def test_greedy_asks_little():
    problem, asked = made_up(30, 0)
    ((_, windows),) = narrow(problem, [900])
    # Where layers add up each move is evaluated once, as what is expected is what comes.
    moved = sum(window is not None for window in windows)
    assert len(asked) <= 2 * moved + 1
    assert len(asked) < 30 * 2


def test_evolution_stops_when_all_was_seen():
    problem, asked = made_up(2, 0)
    assert problem.objective(evolve(problem, 150, [problem.cheapest], generations=1000, seed=0)) == pytest.approx(
        brute_force(problem, 150)
    )
    assert len(asked) < 9 + 9 + 5
    with pytest.raises(ValueError, match="no setting to start from"):
        evolve(problem, 20, [problem.full], generations=1, seed=0)


def test_a_repaired_child_leaves_no_room_that_a_wider_window_could_use():
    problem, _ = made_up(8, 1)
    for limit in (120, 300, 555):
        for start in (problem.full, problem.cheapest):
            windows = repaired(problem, start, limit)
            room = limit - problem.spending.of(windows)
            assert room >= 0
            for i, window in enumerate(windows):
                dearer = [w for w in WINDOWS if COST[w] > COST[window] and problem.alone[i, w] < problem.alone[i, window]]
                assert all(COST[w] - COST[window] > room for w in dearer)


def test_windows_that_cost_as_much_as_wider_ones_are_no_choice():
    spending = Spending("bytes", lambda i, window: {0: 10, 8: 120, None: 100}[window], 0, (True, False))
    problem = Problem(WINDOWS, spending, {(0, w): 0.0 for w in WINDOWS}, lambda windows: 0.0)
    assert problem.choices == {0: [0, None]}
    assert problem.cheapest == (0, None)


def test_families_are_the_largest_that_fit():
    problem, _ = made_up(8, 2)
    cost = problem.spending.of
    full = {family: families.placed(family, list(range(8)), 2) for family in families.PLACED}
    assert full == {"interleaved": [2, 6], "first": [0, 1], "middle": [3, 4], "last": [6, 7]}
    assert families.placed("interleaved", list(range(24)), 3) == [4, 12, 20]
    for limit in (210, 330, 500):
        for family in families.PLACED:
            for rest, windows in families.of_family(problem, family, limit).items():
                k = sum(window is None for window in windows)
                assert {window for window in windows if window is not None} <= {rest}
                assert cost(windows) <= limit
                more = families.placed(family, problem.layers, k + 1)
                assert k == 8 or cost(families.with_full(problem, more, rest)) > limit
        windows = families.guided(problem, 0, limit)
        assert cost(windows) <= limit and set(windows) <= {0, None}
        # One layer more would not fit, whichever.
        more = [tuple(None if j == i else w for j, w in enumerate(windows)) for i in range(8) if windows[i] == 0]
        assert min(map(cost, more)) > limit
        placed = families.of_family(problem, "first", limit).get(0)
        assert placed is None or problem.objective(windows) <= problem.objective(placed)
        assert None in windows
    assert families.of_family(problem, "first", 140) == {}


def test_a_uniform_window_uses_what_there_is():
    spending = Spending("bytes", lambda i, window: 1000 if window is None else 20 + 3 * window, 5, (True, True, False))
    problem = Problem((0, 64, None), spending, {}, lambda windows: 0.0)
    windows = families.uniform(problem, 400, longest=500)
    assert windows == (59, 59, None)
    assert spending.of(windows) <= 400 < spending.of((60, 60, None))
    assert families.uniform(problem, 400, longest=30) == (30, 30, None)
    assert families.uniform(problem, 44, longest=500) is None
    timed = Problem((0, 64, None), Spending("ms", spending.layer, 5, spending.has_window), {}, lambda windows: 0.0)
    assert families.uniform(timed, 430, longest=500) == (64, 64, None)
    assert families.uniform(timed, 400, longest=500) == (0, 0, None)


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    table = [{"state_bytes": int(rng.integers(9)), "kl": float(rng.integers(9)), "answer_loss": None} for _ in range(60)]
    kept = front(table, "state_bytes")
    for row in table:
        dominated = any(
            other["state_bytes"] <= row["state_bytes"]
            and other["kl"] <= row["kl"]
            and (other["state_bytes"], other["kl"]) != (row["state_bytes"], row["kl"])
            for other in table
        )
        same = [other for other in kept if (other["state_bytes"], other["kl"]) == (row["state_bytes"], row["kl"])]
        assert len(same) == (0 if dominated else 1)
    dear = {"state_bytes": 9, "kl": 99.0, "answer_loss": 0.5}
    cheap = {"state_bytes": 1, "kl": 1.0, "answer_loss": 0.9}
    # Better in the third figure alone is on the front; without that figure it is not.
    assert front([dear, cheap], "state_bytes") == [cheap, dear]
    assert front([{**dear, "answer_loss": None}, cheap], "state_bytes") == [cheap]


def test_state_is_what_the_model_counts(tmp_path):
    model = loud_model(tmp_path)
    spending = state(model, 100)
    for windows in ((None,) * 4, (0, 7, None, 64), (16,) * 4):
        for i, window in enumerate(windows):
            model.set_window(window, layers=[i])
        assert spending.of(windows) == model.state_bytes(1, 100)
    assert spending.layers == [0, 1, 2, 3]
    assert model.config.windows == [16] * 4 and model.decoder_layers[0].self_attn.window == 16


def test_on_a_model_the_search_finds_the_best_of_27_and_keeps_its_loud_layer(tmp_path):
    model = loud_model(tmp_path, loud=(1,), layers=3)
    evaluator = Evaluator(model, "test", rows(3, 48), [], Memory())
    windows = (0, 8, None)
    settings = alone(evaluator.full, range(3), windows)
    sweep(evaluator, settings)
    losses = {place: float(evaluator.kl(setting).mean()) for place, setting in settings.items()}
    losses |= {(i, None): 0.0 for i in range(3)}
    asked = []

    def objective(setting):
        asked.append(setting)
        return float(evaluator.kl(setting).mean())

    problem = Problem(windows, state(model, 48), losses, objective, evaluator.keep)
    full = problem.spending.full
    for share in (0.5, 0.7, 0.9):
        limit = share * full
        ((_, found),) = narrow(problem, [limit])
        found = polish(problem, found, limit)
        assert problem.spending.of(found) <= limit
        assert objective(found) == pytest.approx(brute_force(problem, limit))
        assert found[1] is None
