"""The sweep: the rate is chosen on the selection split, finished trainings are kept, workers do as one process does."""

import csv
import json
import math
import os
import signal

import pytest
import yaml
from test_mqar_training import SMALL, spec_of

from nha_eval import cli
from nha_eval.plots import draw
from nha_eval.spec import spec_names
from nha_eval.training import workers
from nha_eval.training.finding import SPECS, read_training_spec
from nha_eval.training.mqar import sweep as sweeping
from nha_eval.training.mqar.cells import choose_rates, first_cells, rates_of, seeds_of, shapes
from nha_eval.training.mqar.estimate import sequences_of, trainings
from nha_eval.training.mqar.sweep import sweep

TWO = {"models": [{"mixer": "nha", "windows": [4], "slots": [2, 4]}, {"mixer": "swa", "windows": [4]}], "rates": [1e-3, 1e-2]}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(path):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(path)]


def fake(spec, cell, folder):
    """As `train_cell`, without training: what is right goes by the rate and the slots."""
    accuracy = (0.9 if cell.rate > 5e-3 else 0.2) - (cell.shape.slots or 0) / 100 + cell.seed / 1000
    splits = ["selection", "test"] if cell.tested else ["selection"]
    row = {"length": 16, "pairs": 2, "window": "own", "n": 100, "state_elements": 64, "state_bytes": 256}
    found = [{**row, "split": split, "accuracy": accuracy + (0.05 if split == "test" else 0)} for split in splits]
    return {"status": "ok", "reason": "", "steps": 8, "selection": accuracy, "rows": found, "seconds": 0.1}


def test_rates_are_chosen_on_selection_and_seeds_are_tested(tmp_path, monkeypatch):
    met = []
    monkeypatch.setattr(sweeping, "train_cell", lambda spec, cell, folder: met.append(cell) or fake(spec, cell, folder))
    spec = spec_of(**TWO, seeds=[1, 2, 3], rate_seed=7)
    table = rows(sweep(spec, tmp_path / "run"))
    assert trainings(spec, 3) == len(met) == 3 * (2 + 3)
    # Model by model: a sweep that is broken off has whole models.
    assert [cell.tested for cell in met] == 3 * [False, False, True, True, True]
    tried, reported = ([cell for cell in met if cell.tested == tested] for tested in (False, True))
    assert {cell.seed for cell in tried} == {7} and not any(cell.tested for cell in tried)
    assert [(cell.seed, cell.rate, cell.tested) for cell in reported] == [
        (seed, 1e-2, True) for _ in range(3) for seed in (1, 2, 3)
    ]
    tests = [row for row in table if row["split"] == "test"]
    assert len(tests) == 9 and {row["rate"] for row in tests} == {"0.01"}
    nha = next(row for row in tests if row["mixer"] == "nha" and row["slots"] == "4")
    assert (
        float(nha["accuracy"]) == pytest.approx(0.9 - 0.04 + 0.001 + 0.05) and nha["window"] == "4" and nha["d_model"] == "64"
    )
    assert {row["seed"] for row in table if row["split"] == "selection"} == {"7", "1", "2", "3"}


def units(plan):
    return [
        (unit[0].shape.mixer, [(cell.number, cell.rate if not cell.tested else cell.seed) for cell in unit])
        for unit in (job.arguments[1] for job in plan.waiting)
    ]


def test_models_of_one_mixer_are_trained_together_where_they_fit(tmp_path):
    spec = spec_of(**TWO, seeds=[1, 2], rate_seed=7, side_by_side=4)
    plan = sweeping.Plan(spec, tmp_path, spec.side_by_side)
    nha = [(0, 1e-3), (0, 1e-2), (1, 1e-3), (1, 1e-2)]
    assert units(plan) == [("nha", nha), ("swa", [(2, 1e-3), (2, 1e-2)])]
    cells = plan.waiting.popleft().arguments[1]
    plan.done(cells, [fake(spec, cell, tmp_path) for cell in cells])
    # Both models' seeds at once, before the next mixer.
    assert units(plan) == [("nha", [(0, 1), (0, 2), (1, 1), (1, 2)]), ("swa", [(2, 1e-3), (2, 1e-2)])]
    # Another number goes on from there, and splits what does not fit.
    assert units(sweeping.Plan(spec, tmp_path, 1)) == [
        *(("nha", [pair]) for pair in [(0, 1), (0, 2), (1, 1), (1, 2)]),
        *(("swa", [pair]) for pair in [(2, 1e-3), (2, 1e-2)]),
    ]
    assert sweeping.Plan(spec, tmp_path, 1).total == plan.total == 12
    # It decides no accuracy, so it may change from one call to the next.
    assert spec.settings() == spec.model_copy(update={"side_by_side": 1}).settings()


def test_what_is_left_of_several_mixers_is_trained_together(tmp_path):
    """Models that are done take no room; mixers on plain torch forms and others are apart."""
    models = [{"mixer": name} for name in ("gla", "mamba2", "gated-deltanet", "swa", "nha")]
    models = [{**one, **({"windows": [4]} if one["mixer"] in ("swa", "nha") else {})} for one in models]
    spec = spec_of(models=models, rates=[1e-3, 1e-2], seeds=[1], rate_seed=7, side_by_side=4)
    numbers = lambda plan: [sorted({cell.number for cell in job.arguments[1]}) for job in plan.waiting]  # noqa: E731
    plan = sweeping.Plan(spec, tmp_path, spec.side_by_side)
    assert numbers(plan) == [[0, 1], [2], [3, 4]]
    for _ in range(2):
        cells = plan.waiting.popleft().arguments[1]
        plan.done(cells, [fake(spec, cell, tmp_path) for cell in cells])
    assert numbers(plan) == [[2], [3, 4]]
    assert numbers(sweeping.Plan(spec, tmp_path, 6)) == [[2], [3, 4]]
    assert numbers(sweeping.Plan(spec.model_copy(update={"seeds": [1, 2]}), tmp_path, 6)) == [[2], [0, 1], [3, 4]]


def test_seeds_come_once_all_rates_are_known_where_these_are_trained_apart(tmp_path):
    tasks = [{"name": name, "train": [{"length": 16, "pairs": 2, "examples": 64}]} for name in ("one", "two")]
    models = [{"mixer": "swa", "windows": [4]}]
    spec = spec_of(models=models, tasks=tasks, rates=[1e-3, 3e-3, 1e-2], seeds=[1], rate_seed=7, side_by_side=2)
    plan = sweeping.Plan(spec, tmp_path, spec.side_by_side)
    apart = [("swa", [(0, 1e-3), (0, 3e-3)]), ("swa", [(0, 1e-2)])]
    assert units(plan) == 2 * apart
    first, second = (plan.waiting.popleft().arguments[1] for _ in range(2))
    assert {cell.task.name for cell in (*first, *second)} == {"one"}
    plan.done(second, [fake(spec, cell, tmp_path) for cell in second])
    assert units(plan) == apart
    plan.done(first, [fake(spec, cell, tmp_path) for cell in first])
    assert units(plan) == [("swa", [(0, 1)]), *apart]


def test_of_models_trained_together_one_that_fails_costs_no_other(tmp_path, monkeypatch):
    spec = spec_of(**{**TWO, "rates": [1e-3]}, seeds=[1], rate_seed=7, side_by_side=4)
    plan, tried = sweeping.Plan(spec, tmp_path, spec.side_by_side), []

    def trained(train, waiting, workers, gpus):
        while waiting:
            job = waiting.popleft()
            tried.append([cell.number for cell in job.arguments[1]])
            broken = any(cell.shape.slots == 2 for cell in job.arguments[1])
            found = [fake(spec, cell, place) for cell, place in zip(*job.arguments[1:], strict=True)]
            yield job, workers_failed if broken else found

    workers_failed = workers.Failed("error", "no such kernel", again=True)
    monkeypatch.setattr(sweeping, "results", trained)
    found = [
        (cell.number, record["status"])
        for cells, records in sweeping._results(plan, 2)
        for cell, record in zip(cells, records, strict=True)
    ]
    assert tried == [[0, 1, 2], [0], [1], [2]]
    assert found == [(0, "error"), (1, "ok"), (2, "ok")]


def test_rates_are_tried_beyond_an_end_that_is_best(tmp_path, monkeypatch):
    """The sliding window is best at the middle one, NHA at the highest and at one beyond it."""
    met = []

    def trained(spec, cell, folder):
        met.append(cell)
        best = 0.9 if cell.shape.mixer == "swa" else 8.0
        return {**fake(spec, cell, folder), "selection": 1 / (1 + abs(math.log(cell.rate / best)))}

    monkeypatch.setattr(sweeping, "train_cell", trained)
    models = [{"mixer": "nha", "windows": [4], "slots": [2]}, {"mixer": "swa", "windows": [4]}]
    spec = spec_of(models=models, rates=[0.3, 1.0, 3.0], seeds=[1, 2], rate_seed=7)
    sweep(spec, tmp_path / "run")
    assert len(met) == trainings(spec, 2) == 2 * (3 + 2)
    met.clear()
    # A sweep that is done is widened, and what was tried stays.
    table = sweep(spec.model_copy(update={"widen": 1}), tmp_path / "run")
    assert [(cell.rate, cell.tested) for cell in met] == [(9.0, False), (9.0, True), (9.0, True)]
    tested = {(row["mixer"], row["rate"]) for row in rows(table) if row["split"] == "test"}
    assert tested == {("nha", "9"), ("swa", "1")}
    assert "1 at the highest; over all models these are 0.3 to 9." in (tmp_path / "run/claims.md").read_text()
    met.clear()
    # Beyond 9 nothing is better.
    table = sweep(spec.model_copy(update={"widen": 2}), tmp_path / "run")
    assert [(cell.rate, cell.tested) for cell in met] == [(27.0, False)]
    assert {(row["mixer"], row["rate"]) for row in rows(table) if row["split"] == "test"} == tested
    assert sweeping.Plan(spec.model_copy(update={"widen": 2}), tmp_path / "run", 1).total == 12


def test_of_equal_rates_the_faster_then_the_lower_is_chosen():
    spec = spec_of(models=TWO["models"][1:], rates=[1e-3, 1e-2, 1e-1, 1.0])
    (model,) = first_cells(spec)
    cells = rates_of(spec, model)
    ok = {"status": "ok", "selection": 0.9, "steps": 500}
    found = {0: ok, 1: {**ok, "steps": 300}, 2: {**ok, "steps": 300}, 3: {"status": "error", "reason": "diverged"}}
    assert choose_rates(cells, found) == {("near", 0): 1e-2}
    assert choose_rates(cells, {**found, 0: {**ok, "selection": 0.91}}) == {("near", 0): 1e-3}
    failed = {place: {"status": "oom", "reason": ""} for place in range(4)}
    assert choose_rates(cells, failed) == {("near", 0): 1e-3}
    assert [(cell.rate, cell.seed, cell.tested) for cell in seeds_of(spec, model, 1e-1)] == [(1e-1, 1, True)]


def test_an_interrupted_sweep_goes_on_and_a_finished_one_is_done(tmp_path, monkeypatch):
    spec, calls = spec_of(**TWO), []

    def breaking(spec, cell, folder):
        calls.append(cell)
        if len(calls) == 8:
            # Whatever ends a run, its table is of all that was finished.
            written = {(row["slots"], row["rate"], row["seed"]) for row in rows(tmp_path / "run/mqar.csv")}
            assert len(written) == len(list((tmp_path / "run/cells").iterdir())) == 7
            raise KeyboardInterrupt
        return fake(spec, cell, folder)

    monkeypatch.setattr(sweeping, "train_cell", breaking)
    with pytest.raises(KeyboardInterrupt):
        sweep(spec, tmp_path / "run")
    cut = sorted((tmp_path / "run/cells").glob("*.json"))[0]
    cut.write_text(cut.read_text()[:40])
    table = sweep(spec, tmp_path / "run")
    # Nine in all, of which seven were finished; one of these was damaged since.
    assert len(calls) == 8 + 3 and len(list((tmp_path / "run/cells").iterdir())) == 9
    monkeypatch.setattr(sweeping, "train_cell", fake)
    assert table.read_text() == sweep(spec, tmp_path / "whole").read_text()
    monkeypatch.setattr(sweeping, "train_cell", lambda *a: pytest.fail("trained again"))
    before = table.read_text()
    assert sweep(spec, tmp_path / "run").read_text() == before
    # But for one whose process was killed.
    cut.write_text(json.dumps({"status": "error", "reason": workers.KILLED, "rows": [], "seconds": 0.0, "again": True}))
    monkeypatch.setattr(sweeping, "train_cell", fake)
    assert sweep(spec, tmp_path / "run").read_text() == before and json.loads(cut.read_text())["status"] == "ok"


@pytest.mark.slow
def test_workers_do_as_one_process_does(tmp_path):
    spec = spec_of(**TWO, epochs=1)
    one, two = (sweep(spec, tmp_path / str(count), workers=count) for count in (1, 2))
    assert without_time(one) == without_time(two) and len(rows(one)) == 6 + 3 * 2
    assert all(row["status"] == "ok" and 0 <= float(row["accuracy"]) <= 1 for row in rows(two))
    assert draw("state-recall", one.parent, tmp_path / "plot.svg").exists()


def _failing(spec, cells, places):
    if cells[0].shape.slots == 2:
        raise RuntimeError("no such kernel")
    return [fake(spec, cell, place) for cell, place in zip(cells, places, strict=True)]


@pytest.mark.slow
def test_a_model_that_fails_costs_no_other_and_is_tried_again(tmp_path, monkeypatch):
    spec = spec_of(**{**TWO, "rates": [1e-3]})
    monkeypatch.setattr(sweeping, "train_unit", _failing)
    tests = [row for row in rows(sweep(spec, tmp_path / "run", workers=2)) if row["split"] == "test"]
    assert [(row["slots"], row["status"]) for row in tests] == [("2", "error"), ("4", "ok"), ("", "ok")]
    assert tests[0]["reason"] == "RuntimeError: no such kernel"
    monkeypatch.undo()
    monkeypatch.setattr(sweeping, "train_cell", fake)
    tests = [row for row in rows(sweep(spec, tmp_path / "run")) if row["split"] == "test"]
    assert [row["status"] for row in tests] == ["ok"] * 3


def _dying(spec, cells, places):
    if cells[0].shape.slots == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return [fake(spec, cell, place) for cell, place in zip(cells, places, strict=True)]


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_own_training_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "train_unit", _dying)
    table = rows(sweep(spec_of(**{**TWO, "rates": [1e-3]}), tmp_path / "run", workers=2))
    tests = [row for row in table if row["split"] == "test"]
    assert [(row["slots"], row["status"]) for row in tests] == [("2", "error"), ("4", "ok"), ("", "ok")]
    assert tests[0]["reason"] == workers.KILLED


def test_a_training_without_figures_is_a_row_that_says_why(tmp_path, monkeypatch):
    failed = {"status": "oom", "reason": "out of memory", "rows": [], "seconds": 1.0}
    monkeypatch.setattr(sweeping, "train_cell", lambda *a: failed)
    table = rows(sweep(spec_of(), tmp_path / "run"))
    assert [(row["status"], row["reason"], row["split"], row["accuracy"]) for row in table] == [
        ("oom", "out of memory", "test", "")
    ]


def test_shipped_specs_are_the_published_settings(capsys):
    assert {"mqar-quick", "mqar-minutes", "mqar-zoology", "mqar-based"} <= set(spec_names(SPECS))
    _, zoology = read_training_spec("mqar-zoology", {})
    assert [(kind.length, kind.pairs) for task in zoology.tasks for kind in task.train] == [
        (64, 4),
        (128, 8),
        (256, 16),
        (512, 64),
    ]
    assert [round(rate / 1e-4, 1) for rate in zoology.rates] == [1.0, 4.6, 21.5, 100.0]
    _, based = read_training_spec("mqar-based", {})
    assert [sequences // (32 * 256) for *_, sequences in sequences_of(based, based.tasks[0])] == [390, 78, 78, 78, 78]
    _, minutes = read_training_spec("mqar-minutes", {})
    for spec in (zoology, based, minutes):
        mixers = {shape.mixer for shape in shapes(spec)} - {"nha-h"}
        assert mixers == {"transformer++", "swa", "gsa", "gla", "gated-deltanet", "mamba2", "nha", "nha-2026", "gsa-h", "gdn-h"}
        assert len(spec.seeds) >= 3 and spec.vocabulary == (1024 if spec is minutes else 8192)
    assert cli.run(["train", "mqar-quick", "--dry-run"]) == 0
    out = capsys.readouterr().out
    # Two rates on one seed and two seeds, of each of five models.
    assert "mqar-quick: 20 trainings of 5 models" in out and "transformer++ d=64 heads=2" in out
    # Of 12,800 sequences by 16.
    assert "in all: 16,000 steps, " in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mdels": []}, "unknown key `mdels`; did you mean 'models'"),
        ({"models": [{"mixer": "nhaa"}]}, "no mixer to train is called 'nhaa'; did you mean 'nha'"),
        ({"models": [{"mixer": "gsa", "windows": [4]}]}, "mixer gsa has no window to set: leave windows"),
        ({"models": [{"mixer": "transformer++", "windows": [4]}]}, r"mixer transformer\+\+ has no window to set"),
        ({"models": [{"mixer": "swa", "slots": [4]}]}, "mixer swa has no slots: leave slots out"),
        ({"models": [{"mixer": "gla", "fusion": ["sum"]}]}, "mixer gla has no slots: leave fusion out"),
        ({"models": [{"mixer": "gsa", "fusion": ["sum"]}]}, "mixer gsa has no window beside its slots: leave fusion out"),
        ({"models": [{"mixer": "nha", "windows": ["wide"]}]}, "window 'wide': wanted is an integer >= 0"),
        (
            {"models": [{"mixer": "nha", "heads": [3]}]},
            "nha d=64 heads=3 .*cannot be made: d_model is no multiple of its heads",
        ),
        (
            {"models": [{"mixer": "mamba2", "options": [{"stat_size": 3}]}]},
            "mamba2 d=64 .* has 'stat_size'; wanted any of expand",
        ),
        ({"models": [{"mixer": "nha", "options": [{"a": 1}]}]}, "nha d=64 .* has 'a'; wanted any of conv_size"),
        (
            {"tasks": [{"name": "a", "train": [{"length": 16, "pairs": 5, "examples": 64}]}]},
            "task a: 5 pairs and as many queries in 16",
        ),
        (
            {"tasks": [{"name": "a", "train": [{"length": 16, "pairs": 2, "examples": 8}]}]},
            "8 examples are less than one batch of 16",
        ),
        ({"tasks": [{"name": "a", "train": [{"length": 16, "pairs": 2}]}]}, "`tasks.0.train.0` lacks `examples`"),
        ({"tasks": SMALL["tasks"] * 2}, "names 'near' twice"),
        ({"seeds": [0, 1]}, "rate_seed 0 is among the seeds"),
        ({"seeds": [1, 1]}, "seeds holds one of them twice"),
        ({"rates": [-1.0]}, "`rates.0` is -1.0: wanted is greater than 0"),
        ({"stop_at": 2.0}, "`stop_at` is 2.0"),
        ({"device": "tpu"}, "device 'tpu': wanted is auto, cpu"),
    ],
)
def test_wrong_specs_are_one_line(tmp_path, capsys, changes, said):
    import re

    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**SMALL, **changes}))
    assert cli.run(["train", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and re.search(said, lines[0]), lines
    assert not (tmp_path / "run").exists()


def test_another_spec_in_the_folder_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweeping, "train_cell", fake)
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SMALL))
    command = ["train", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "run")]
    assert cli.run(command) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run/mqar.csv")
    assert json.loads((tmp_path / "run/environment.json").read_text())["filler"] == "token 0"
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({**SMALL, "epochs": 3}))
    assert cli.run(command) == 2 and "training of another spec (differs in: epochs)" in capsys.readouterr().err
