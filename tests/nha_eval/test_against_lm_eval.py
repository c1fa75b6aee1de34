"""Scores on the real model equal what `lm_eval --model hf` prints for the same checkpoint and task, to the last digit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.assets import smollm2_folder
from models.presets import load
from nha_eval.lm import HarnessLM
from nha_eval.scoring import score_task
from tasks import TASKS_PATH

pytestmark = [pytest.mark.slow, pytest.mark.assets, pytest.mark.timeout(900)]

CASES = [
    ("recall_needle", {"length": 512, "contexts": 2}, ["contains"]),
    ("recall_squad", {"length": 512, "contexts": 1}, ["contains"]),
    ("commonsense_timedial", {"limit": 12}, ["acc", "acc_norm"]),
    ("commonsense_riddle_sense_10shot", {"limit": 6}, ["acc", "acc_norm"]),
]


@pytest.fixture(scope="module")
def base():
    return load("smollm2-135m")


@pytest.mark.parametrize(("task", "asked", "metrics"), CASES, ids=[c[0] for c in CASES])
def test_scores_equal_plain_lm_eval(base, task, asked, metrics, tmp_path):
    metadata = {"seed": 0} | ({"lengths": [asked["length"]], "contexts": asked["contexts"]} if "length" in asked else {})
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", task, "--include_path", str(TASKS_PATH)]
    command += ["--model_args", f"pretrained={smollm2_folder()},dtype=float32", "--device", "cpu", "--batch_size", "1"]
    command += ["--metadata", json.dumps(metadata), "--output_path", str(tmp_path)]
    if "limit" in asked:
        command += ["--limit", str(asked["limit"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"][task]
    for batch in (1, 8):
        ours = {row.metric: row.value for row in score_task(HarnessLM(base, batch_size=batch), task, seed=0, **asked).rows}
        for metric in metrics:
            assert ours[metric] == pytest.approx(theirs[f"{metric},none"], abs=1e-12), (metric, batch)
