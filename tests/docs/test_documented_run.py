"""Every command of README and docs is run, as it stands or as replaced.yaml says, in a folder of small models and runs."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import workspace
import yaml
from documented import OWN, ROOT, commands

from nha_eval import cli

IN_PLACE = {
    command: run
    for group in yaml.safe_load((ROOT / "tests/docs/replaced.yaml").read_text())
    for command, run in group["in_place"].items()
}
# What is run, each once, in the order in which it is shown.
RUNS = dict.fromkeys(IN_PLACE.get(command, command) for command in commands())
OF_THE_CHECKOUT = ("make", "python -m pytest", "pre-commit", "test")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = workspace.make(tmp_path_factory.mktemp("documented"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv("NHA_EVAL_CACHE", str(made / "cache"))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
        patch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
        # What other commands read.
        assert cli.run(["train", "mqar.yaml", "--out", "results/runs/train-mqar-quick"]) == 0
        assert cli.run(["train", "study.yaml", "--out", "results/runs/train-lm-windows"]) == 0
        for name in ("quickstart", "quickstart-again"):
            assert cli.run(["eval", "SPEC.yaml", "--out", f"results/runs/{name}"]) == 0
        yield made


@pytest.mark.timeout(180)
@pytest.mark.parametrize("run", RUNS)
def test_it_runs(run, folder, capfd):
    command, _, code = run.partition(" => ")
    if command.startswith(OWN):
        done = cli.run(shlex.split(command)[1:])
    else:
        where = ROOT if command.startswith(OF_THE_CHECKOUT) else folder
        done = subprocess.run(shlex.split(command), cwd=where).returncode
    out, err = capfd.readouterr()
    assert done == int(code or 0), f"{command}\n{out[-1500:]}\n{err[-3000:]}"
