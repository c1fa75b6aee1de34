"""The grid: order, windows, lengths, and ids that change with everything that decides a result and with nothing else."""

import time

import fakes
import pytest

from nha_eval.catalog import describe_all
from nha_eval.errors import UserError
from nha_eval.plan import ModelInfo, expand
from nha_eval.spec import Spec


def cells_of(describe=fakes.describe, known=None, **content):
    spec = Spec.model_validate({"models": ["a"], "suites": ["recall"], "costs": False, **content})
    return expand(spec, [describe(entry.name) for entry in spec.models], known or fakes.suites())


def points(cells):
    return [(cell.model, cell.window, cell.phase or cell.task, cell.length) for cell in cells]


def test_models_outside_costs_first_tasks_before_windows():
    cells = cells_of(models=["a", "b"], windows=[16, "full"], lengths=[64], costs={"lengths": [128, 64]})
    assert points(cells)[:12] == [
        *(("a", window, phase, length) for length in (64, 128) for window in (16, "full") for phase in ("prefill", "decode")),
        ("a", 16, "needle", 64),
        ("a", "full", "needle", 64),
        ("b", 16, "prefill", 64),
        ("b", 16, "decode", 64),
    ]


def test_a_models_own_windows_win_and_a_windowless_one_has_none():
    cells = cells_of(models=[{"name": "a", "windows": ["full"]}, "b", "flat"], windows=[16, 64], lengths=[64])
    assert points(cells) == [
        ("a", "full", "needle", 64),
        ("b", 16, "needle", 64),
        ("b", 64, "needle", 64),
        ("flat", "none", "needle", 64),
    ]


def test_without_windows_a_model_is_taken_as_it_comes():
    def as_it_comes(name):
        return ModelInfo(name, name, "w", "own", 4096)

    assert {cell.window for cell in cells_of(describe=as_it_comes)} == {"own"}


def test_extra_cost_lengths_for_some():
    costs = {"lengths": [64], "extra": [{"model": "b", "windows": [16], "lengths": [256]}]}
    cells = cells_of(models=["a", "b"], windows=[16, 64], suites=[], costs=costs)
    assert [point for point in points(cells) if point[3] == 256] == [("b", 16, "prefill", 256), ("b", 16, "decode", 256)]


def test_default_lengths_stop_at_the_models_and_asked_ones_are_refused():
    def short(name):
        return ModelInfo(name, name, "w", "full", 100)

    assert {cell.length for cell in cells_of(describe=short)} == {64}
    with pytest.raises(UserError, match=r"length 128 .* up to 100 tokens"):
        cells_of(describe=short, lengths=[64, 128])
    with pytest.raises(UserError, match=r"length 512 .*costs.* up to 100 tokens.*--cost-length"):
        cells_of(describe=short, costs={"lengths": [512]})
    assert {cell.length for cell in cells_of(describe=short, suites=[], costs=True)} == {100}


def test_tasks_restrict_suites_and_may_stand_alone():
    alone = cells_of(suites=[], tasks=["riddle"])
    within = cells_of(suites=["sense"], tasks=[{"name": "riddle", "limit": 3}], limit=9)
    assert [(cell.suite, cell.task, cell.limit) for cell in alone] == [("sense", "riddle", None)]
    assert [(cell.suite, cell.task, cell.limit) for cell in within] == [("sense", "riddle", 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"suites": ["recal"]}, "no such suite: 'recal'; did you mean 'recall'?"),
        ({"tasks": ["neddle"]}, "no such task: 'neddle'; did you mean 'needle'?"),
        ({"tasks": ["riddle"]}, "task 'riddle' is in suite 'sense', not in recall: add --suite sense"),
        ({"suites": ["sense"], "tasks": [{"name": "riddle", "lengths": [64]}]}, "not generated at a length"),
        ({"costs": {"extra": [{"model": "zz", "lengths": [64]}]}}, "costs.extra names the model 'zz'"),
        ({"suites": []}, "nothing to do"),
    ],
)
def test_what_does_not_fit_is_refused(content, message):
    with pytest.raises(UserError) as refusal:
        cells_of(**content)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"windows": [17]},
        {"lengths": [128]},
        {"limit": 4},
        {"contexts": 4},
        {"seed": 1},
        {"batch": 4},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_ids_change_with_what_decides_the_result(change):
    base = {"windows": [16], "lengths": [64], "dtype": "float32", "device": "cpu"}
    assert cells_of(**base)[0].id == cells_of(**base)[0].id
    assert cells_of(**base)[0].id != cells_of(**{**base, **change})[0].id


def three_layers(name):
    return ModelInfo(name, name, "w", "none" if name == "flat" else "full", 4096, least_windows=(0, 1, None))


def test_a_setting_by_name_gives_its_cells_the_windows_of_the_layers():
    extra = [{"model": "a", "windows": ["tight"], "lengths": [256]}]
    content = {
        "settings": {"searched": {"window": 64, "full": [1]}, "tight": [8, 8, "none"]},
        "costs": {"lengths": [64], "extra": extra},
    }
    cells = cells_of(describe=three_layers, windows=[16, "searched", "full"], lengths=[64], telemetry=True, **content)
    assert {(cell.window, cell.windows) for cell in cells} == {
        (16, None),
        ("searched", (64, "full", "none")),
        ("full", None),
        ("tight", (8, 8, "none")),
    }
    assert {cell.length for cell in cells if cell.window == "tight"} == {256}
    assert [cell.what for cell in cells if cell.kind == "score"][1] == "a setting searched needle at 64"
    assert "--searched--" in next(cell.id for cell in cells if cell.window == "searched")


def test_a_window_in_tokens_leaves_a_hybrids_full_layers_full():
    def hybrid(name):
        return ModelInfo(name, name, "w", "own", 4096, least_windows=(0, 1, None), full_layers=(1,))

    cells = cells_of(describe=hybrid, windows=[16, "full"], lengths=[64], costs={"lengths": [64]})
    assert {(cell.window, cell.windows) for cell in cells} == {(16, (16, "full", "none")), ("full", None)}
    assert {cell.what for cell in cells if cell.kind == "score"} >= {"a window 16 needle at 64"}


def test_ids_change_with_the_windows_behind_a_name_and_not_with_the_form():
    def ids(form, describe=three_layers):
        return [cell.id for cell in cells_of(describe=describe, windows=["s", 16], lengths=[64], settings={"s": form})]

    base = ids([64, "full", "none"])
    assert ids({"window": 64, "full": [1]}) == base
    changed = ids([64, 32, "none"])
    assert changed[0] != base[0] and changed[1] == base[1]
    # Windows of its own, as an integer has them in all layers, are another setting all the same.
    assert len({*ids([16, 16, "none"])}) == 2


def test_settings_that_fit_no_model_are_refused_before_anything_runs():
    with pytest.raises(UserError, match="setting 's' has 2 windows, and a has 3 layers"):
        cells_of(describe=three_layers, windows=["s"], settings={"s": [64, 64]})
    with pytest.raises(UserError, match="how many layers a has is not known"):
        cells_of(windows=["s"], settings={"s": {"window": 64}})
    # A model without windows is run once, whatever others are asked for.
    assert points(cells_of(describe=three_layers, models=["flat"], windows=["s"], lengths=[64], settings={"s": [64]})) == [
        ("flat", "none", "needle", 64)
    ]


def test_telemetry_of_a_setting_wants_a_window_short_of_full():
    def observed(form):
        cells = cells_of(
            describe=three_layers, windows=["s"], lengths=[64], settings={"s": form, "t": [1, 1, "none"]}, telemetry=True
        )
        return [cell.kind for cell in cells].count("telemetry")

    assert observed([64, "full", "none"]) == 1
    assert observed(["full", "full", "none"]) == 0


def test_ids_change_with_weights_and_task_version_but_not_with_the_folder():
    def other_weights(name):
        return ModelInfo(name, name, "others", "full", 4096)

    def moved(name):
        return ModelInfo(f"/elsewhere/{name}", name, f"weights-of-{name}", "full", 4096)

    newer = fakes.suites()
    newer["recall"][0].version = "2.0"
    base = cells_of()[0].id
    assert cells_of(describe=other_weights)[0].id != base
    assert cells_of(known=newer)[0].id != base
    assert cells_of(describe=moved)[0].id == base


@pytest.mark.parametrize(
    "content",
    [
        {"windows": list(range(2000)), "lengths": list(range(64, 128))},
        {"windows": list(range(2000)), "costs": {"lengths": list(range(1, 60))}},
        {"windows": list(range(2000)), "costs": {"extra": [{"model": "a", "lengths": list(range(1, 60))}]}},
    ],
)
def test_a_grid_without_end_is_refused_at_once(content):
    began = time.monotonic()
    with pytest.raises(UserError, match="more than 100000 cells"):
        cells_of(**content)
    assert time.monotonic() - began < 20


def test_ids_are_file_names():
    def awkward(name):
        return ModelInfo(name, "org/näme with spaces/..", "w", "full", 4096)

    name = cells_of(describe=awkward)[0].id
    assert "/" not in name
    assert name.isascii()
    assert len(name) < 200


def test_folders_of_one_name_are_told_apart(tmp_path):
    for parent in ("x", "y"):
        (tmp_path / parent / "ckpt").mkdir(parents=True)

    def describe(name):
        return ModelInfo(name, "ckpt", name, "full", 64)

    labels = [info.label for info in describe_all([str(tmp_path / parent / "ckpt") for parent in ("x", "y")], describe)]
    assert labels == ["x/ckpt", "y/ckpt"]
    with pytest.raises(UserError, match="named twice"):
        describe_all(["a", "a"], describe)
