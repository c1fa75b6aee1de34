"""Hidden states kept between settings are those of whole passes, and KL is torch's own."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from search_models import LAYERS, loud_model, rows

from nha_eval.search.divergence import Divergence
from nha_eval.search.evaluator import Deadline, Evaluator, Memory, OutOfTime
from nha_eval.search.forward import Forward
from nha_eval.search.sensitivity import alone, sweep

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return loud_model(tmp_path_factory.mktemp("model"))


@torch.no_grad()
def logits(model, ids, windows):
    """The model's own pass, nothing kept."""
    for i, window in enumerate(windows):
        model.set_window(window, layers=[i])
    return model(ids, use_cache=False).logits


def plain_kl(model, ids, windows):
    """Each sequence's mean KL from the full model, by torch's kl_div in fp64 on whole passes."""
    full, other = (logits(model, ids, each).double().log_softmax(-1) for each in ((None,) * len(windows), windows))
    return F.kl_div(other, full, log_target=True, reduction="none").sum(-1).mean(-1).numpy()


def every_setting(windows=(0, 3, None)):
    order = list(itertools.product(windows, repeat=LAYERS))
    np.random.default_rng(0).shuffle(order)
    return [tuple(None if window is None else int(window) for window in setting) for setting in order]


@pytest.mark.parametrize("most_kept", [2**30, 90_000, 0], ids=["all", "every second", "none"])
def test_states_kept_change_nothing(model, most_kept):
    ids = rows(3, 17)
    forward = Forward(model, list(ids.split(2)), most_kept)
    for number, windows in enumerate(every_setting()[:30]):
        found = torch.cat(forward.run(windows))
        if number % 3 == 0:
            forward.keep(windows)
        with torch.no_grad():
            again = model.lm_head(model.model.norm(found))
        assert torch.equal(again, torch.cat([logits(model, part, windows) for part in ids.split(2)])), windows
    whole = 30 * LAYERS * 2
    assert forward.layers_run == whole if most_kept == 0 else forward.layers_run < whole


def test_a_sweep_runs_each_layer_only_where_it_changed(model):
    forward = Forward(model, [rows(2, 9)])
    full = (None,) * LAYERS
    forward.run(full)
    forward.keep(full)
    before = forward.layers_run
    for windows in alone(full, range(LAYERS), (0, 3, None)).values():
        forward.run(windows)
    assert forward.layers_run - before == 2 * sum(LAYERS - i for i in range(LAYERS))


def test_sensitivities_are_those_of_whole_passes(model):
    ids = rows(5, 24, seed=1)
    evaluator = Evaluator(model, "test", ids, [], Memory(), batch=2)
    settings = alone(evaluator.full, range(LAYERS), (0, 2, 8, None))
    told = {}
    sweep(evaluator, settings, lambda layer, kl: told.setdefault(layer, kl))
    for (layer, window), windows in settings.items():
        wanted = plain_kl(model, ids, windows)
        assert evaluator.kl(windows) == pytest.approx(wanted, abs=1e-5, rel=1e-4)
        row = evaluator.row(windows)
        assert row["kl"] == told[layer][window] == pytest.approx(wanted.mean(), abs=1e-5)
        # All sequences are of one length: clustered by sequence is the standard error of their means.
        assert row["kl_stderr"] == pytest.approx(wanted.std(ddof=1) / np.sqrt(5), rel=1e-2, abs=1e-7)
    # The layer that says much costs most, at each window, by far.
    for window in (0, 2, 8):
        costs = [told[layer][window] for layer in range(LAYERS)]
        assert np.argmax(costs) == 2 and costs[2] > 3 * sorted(costs)[-2]


@pytest.mark.parametrize("chunk", [1, 320 * 7, 2**24], ids=["a position at a time", "seven", "all"])
@pytest.mark.parametrize("most_kept", [0, 2**30], ids=["made again", "kept"])
def test_kl_is_torchs(model, chunk, most_kept):
    ids = rows(3, 11, seed=2)
    forward = Forward(model, list(ids.split(2)))
    windows = (3, 0, 3, None)
    full, narrow = forward.run((None,) * LAYERS), forward.run(windows)
    found = Divergence(model, full, chunk=chunk, most_kept=most_kept).of(narrow)
    assert found == pytest.approx(plain_kl(model, ids, windows), abs=1e-5, rel=1e-4)
    assert found.shape == (3,) and found.min() > 0


def test_nothing_is_evaluated_twice_and_a_journal_stands_for_a_run(model):
    ids, noted = rows(2, 12), {}
    memory = Memory(note=noted.update)
    evaluator = Evaluator(model, "weights", ids, [], memory)
    windows = (0, None, 3, None)
    first = evaluator.kl(windows)
    assert evaluator.kl(windows) is first and memory.fresh == 1
    later = Memory(noted)
    again = Evaluator(model, "weights", ids, [], later)
    assert (again.kl(windows) == first).all() and later.fresh == 0
    for identity, tokens in (("other weights", ids), ("weights", ids + 1)):
        other = Memory(noted)
        Evaluator(model, identity, tokens, [], other).kl(windows)
        assert other.fresh == 1


def test_warming_measures_nothing_and_changes_no_figure(model):
    memory, windows = Memory(), (0, None, 3, None)
    warmed = Evaluator(model, "weights", rows(2, 12), [], memory)
    warmed.warm([(None,) * LAYERS, (0, None, None, None), windows])
    assert memory.fresh == 0 and warmed.seconds("kl") == 0
    assert (warmed.kl(windows) == Evaluator(model, "weights", rows(2, 12), [], Memory()).kl(windows)).all()


def test_a_limit_ends_evaluations_and_not_what_is_known(model):
    deadline = Deadline(100.0)
    evaluator = Evaluator(model, "weights", rows(2, 12), [], Memory(), deadline=deadline)
    known = evaluator.kl((0, None, None, None))
    deadline.reserve(200.0)
    with pytest.raises(OutOfTime):
        evaluator.kl((0, 0, None, None))
    assert evaluator.kl((0, None, None, None)) is known
    with deadline.lifted():
        assert evaluator.kl((0, 0, None, None)).shape == (2,)
    assert deadline.limit == 100.0


def test_a_kl_that_is_no_number_is_refused(model):
    evaluator = Evaluator(model, "weights", rows(2, 12), [], Memory())
    evaluator.prepare()
    held = model.lm_head.weight.data.clone()
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        evaluator.kl((0, None, None, None))
    model.lm_head.weight.data.copy_(held)
