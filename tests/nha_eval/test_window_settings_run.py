"""Settings of windows by name, run: scores and states equal to those of checkpoints saved with these windows, wherever the
cells are worked through, and nothing of one setting in another's place.
"""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import fakes
import pytest
import torch
import yaml

from models.presets import load
from nha_eval import cli, worker
from nha_eval.executors import LocalExecutor
from nha_eval.lm import HarnessLM
from nha_eval.scoring import score_task

ROOT = Path(__file__).parents[2]
LENGTH, CONTEXTS, LIMIT = 256, 2, 6
# What each name of the file stands for in nha-tiny's two layers.
FILE = "searched: [2, full]\ncompact: {window: 0, full: [1]}\nunused: [1, 1, 1]\n"
LAYERS = {"searched": [2, None], "compact": [0, None], "16": [16, 16], "full": [None, None]}
TASK = ["--task", "recall_needle", "--length", LENGTH, "--contexts", CONTEXTS, "--limit", LIMIT]


def asked(folder):
    windows = ["--settings", folder.parent / "settings.yaml", "--window", "searched,16,compact,full"]
    return ["eval", "--model", "nha-tiny", *TASK, *windows, "--cost-length", 64, "--device", "cpu", "--out", folder]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    (folder.parent / "settings.yaml").write_text(FILE)
    command = [sys.executable, "run_eval.py", *map(str, asked(folder))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def with_windows(name, windows):
    loaded = load(name)
    for layer, window in enumerate(windows):
        loaded.model.set_window(window, layers=[layer])
    return loaded


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder for each of LAYERS, of nha-tiny with those windows."""
    folders = {}
    for name, windows in LAYERS.items():
        loaded = with_windows("nha-tiny", windows)
        folders[name] = tmp_path_factory.mktemp("saved") / name
        loaded.model.save_pretrained(folders[name])
        loaded.tokenizer.save_pretrained(folders[name])
    return folders


def cells(run):
    records = [json.loads(path.read_text()) for path in (run / "cells").glob("*.json")]
    return {(record["cell"]["window"], record["cell"]["kind"], record["cell"]["phase"]): record for record in records}


@pytest.mark.slow
def test_scores_are_those_of_checkpoints_saved_with_these_windows(run, saved):
    told = {}
    for name, folder in saved.items():
        loaded = load(str(folder))
        assert loaded.model.config.windows == LAYERS[name]
        wanted = score_task(
            HarnessLM(loaded, batch_size=8), "recall_needle", length=LENGTH, limit=LIMIT, contexts=CONTEXTS, seed=0
        )
        (path,) = (run / "samples").glob(f"nha-tiny--{name}--*.jsonl")
        told[name] = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
        assert told[name] == [sample["prediction"] for sample in wanted.samples] and len(told[name]) == LIMIT
    # Else equality would say nothing.
    assert len({json.dumps(answers) for answers in told.values()}) == len(told)


def test_states_are_those_of_the_layers(run, saved):
    with (run / "costs.csv").open(newline="") as file:
        held = {row["window"]: int(row["state_bytes"]) for row in csv.DictReader(file) if row["phase"] == "prefill"}
    assert held == {name: load(str(folder)).model.state_bytes(1, 64) for name, folder in saved.items()}
    assert held["compact"] < held["searched"] < held["full"]


def test_a_hybrids_full_layers_stay_full_at_a_window_in_tokens(saved, tmp_path):
    made = saved["searched"]
    asked = [*map(str, TASK), "--window", "4,full", "--cost-length", "64", "--device", "cpu"]
    assert cli.run(["eval", "--model", str(made), *asked, "--out", str(tmp_path / "run")]) == 0
    with (tmp_path / "run" / "costs.csv").open(newline="") as file:
        held = {row["window"]: int(row["state_bytes"]) for row in csv.DictReader(file) if row["phase"] == "prefill"}
    wanted = {"4": with_windows(str(made), [4, None]), "full": with_windows(str(made), [None, None])}
    assert held == {window: loaded.model.state_bytes(1, 64) for window, loaded in wanted.items()}


def test_records_hold_the_windows_and_the_run_needs_no_other_file(run, capsys):
    found = cells(run)
    assert found["searched", "score", None]["cell"]["windows"] == [2, "full"]
    assert found["compact", "cost", "decode"]["cell"]["windows"] == [0, "full"]
    assert found[16, "score", None]["cell"]["windows"] is None
    spec = yaml.safe_load((run / "spec.yaml").read_text())
    assert spec["settings"] == {"searched": [2, "full"], "compact": {"window": 0, "full": [1]}}
    assert cli.run(["eval", str(run / "spec.yaml"), "--out", str(run)]) == 0
    assert "nothing was left to do" in capsys.readouterr().err


def test_the_report_calls_settings_by_their_names(run):
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "| nha-tiny, searched |" in text and "| nha-tiny, compact |" in text
    assert "At the setting searched and 256 tokens" in text
    assert "| 2 | nha-tiny, searched |" in text and "still meet what is beyond" in text


def test_other_windows_under_a_name_are_another_run(run, tmp_path, capsys):
    path = run.parent / "settings.yaml"
    path.write_text(FILE.replace("searched: [2, full]", "searched: [4, full]"))
    try:
        assert cli.run(list(map(str, asked(run)))) == 2
    finally:
        path.write_text(FILE)
    assert "another spec (differs in: settings)" in capsys.readouterr().err


def test_compare_takes_a_setting_by_its_name(run, tmp_path):
    out = tmp_path / "compared.csv"
    sides = ["--a", "nha-tiny:searched", "--b", "nha-tiny:compact"]
    assert cli.run(["compare", str(run), *sides, "--out", str(out)]) == 0
    with out.open(newline="") as file:
        assert [(row["window_a"], row["window_b"]) for row in csv.DictReader(file)] == [("searched", "compact")]


def logits(model):
    ids = torch.arange(40)[None] % model.config.vocab_size
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_back_and_forth_between_settings_own_windows_and_integers(saved):
    held = worker.Model({"model": str(saved["searched"]), "device": "cpu", "dtype": "float32", "threads": 1})
    settings = {"a": (4, 8), "b": ("full", 3), "a again": (4, 8)}
    steps = ["own", 16, "a", "own", "b", "full", "a", "a again", 3, "b", "own", "own", "a"]
    seen = {}
    for step in steps:
        held.set_window(step, settings.get(step))
        windows = settings.get(step) or ([2, None] if step == "own" else [step, step])
        fresh = with_windows("nha-tiny", [None if window == "full" else window for window in windows])
        assert torch.equal(logits(held.loaded.model), logits(fresh.model)), step
        seen[step] = logits(fresh.model)
    assert torch.equal(seen["a"], seen["a again"])
    assert not any(torch.equal(seen[one], seen[other]) for one, other in (("a", "b"), ("b", 3), ("own", "a"), ("own", "full")))


def test_what_a_layer_refuses_leaves_no_name_behind(saved):
    held = worker.Model({"model": "swa-tiny", "device": "cpu", "dtype": "float32", "threads": 1})
    held.set_window("s", [4, 8])
    wanted = logits(held.loaded.model)
    for window, windows in ((0, None), ("t", [4]), ("t", [0, 4]), ("t", ["none", 4])):
        with pytest.raises(ValueError, match=r"window|layers"):
            held.set_window(window, windows)
        # As if a layer had been changed before another refused.
        held.loaded.model.set_window(2, layers=[0])
        held.set_window("s", [4, 8])
        assert torch.equal(logits(held.loaded.model), wanted)


def test_a_setting_that_only_the_loaded_model_can_refuse_is_its_cells_error():
    load_request = {"do": "load", "model": "nha-tiny", "device": "cpu", "dtype": "float32", "threads": 1}
    cell = {"id": "x", "kind": "cost", "window": "s", "windows": [64, 64, 64], "seed": 0, "device": "cpu"}
    events = []
    worker.work(iter([load_request, {"do": "cell", "cell": cell}]), events.append)
    assert events[-1]["status"] == "error"
    assert events[-1]["reason"].startswith("setting 's' has 3 windows, and nha-tiny has 2 layers: give one a layer")


SPEC = {
    **{"settings": {"s": [8, "full"], "t": [4, 4]}, "windows": ["s", 16, "t"], "models": ["hybrid"]},
    **{"suites": ["recall"], "lengths": [64, 128], "costs": {"lengths": [64]}},
}


def tables(folder):
    return {name: (folder / name).read_bytes() for name in ("scores.csv", "costs.csv")}


def test_settings_travel_to_several_workers_and_shares(tmp_path):
    assert fakes.make_run(tmp_path / "one", SPEC).go() == 0
    wide = fakes.make_run(tmp_path / "two", SPEC)
    wide.executor = LocalExecutor(wide.executor.command, room=2)
    assert wide.go() == 0
    for share in ("1/2", "2/2"):
        assert fakes.make_run(tmp_path / "shares", {**SPEC, "share": share}).go() == 0
    gathered = fakes.make_run(tmp_path / "shares", SPEC)
    assert gathered.go() == 0
    assert tables(tmp_path / "one") == tables(tmp_path / "two") == tables(tmp_path / "shares")
    # The stand-in's figures are of the windows that reached it.
    other = {**SPEC, "settings": {"s": [8, 8], "t": [4, 4]}}
    assert fakes.make_run(tmp_path / "other", other).go() == 0
    with (tmp_path / "one" / "scores.csv").open() as one, (tmp_path / "other" / "scores.csv").open() as two:
        unlike = {a["window"] for a, b in zip(csv.DictReader(one), csv.DictReader(two), strict=True) if a != b}
    assert unlike == {"s"}


def test_a_slurm_script_takes_settings_along_with_its_spec(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text("searched: [2, full]\n")
    spec = {"models": ["nha-tiny"], "suites": ["recall-local"], "windows": ["searched"], "settings": "settings.yaml"}
    Path("mine.yaml").write_text(yaml.safe_dump(spec))
    assert cli.run(["slurm", "mine.yaml", "--jobs", "2"]) == 0
    script = Path("mine.sbatch").read_text()
    # Jobs begin where the command was given, so that they find the same file.
    assert f"cd {tmp_path}" in script and str(tmp_path / "mine.yaml") in script
    assert re.search(r"eval .*mine\.yaml", capsys.readouterr().out)
    Path("settings.yaml").unlink()
    assert cli.run(["slurm", "mine.yaml"]) == 2
    assert "settings file 'settings.yaml' is not there" in capsys.readouterr().err
