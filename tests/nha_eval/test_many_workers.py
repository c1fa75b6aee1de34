"""Several workers at a time, here and on a Ray cluster: the same tables to the byte, and nothing lost with a worker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace

import fakes
import pytest

from nha_eval import cli
from nha_eval.errors import MachineError, UserError
from nha_eval.evaluate import make_executor
from nha_eval.executors import LocalExecutor
from nha_eval.ray_executor import RayExecutor
from nha_eval.sharing import share_out
from nha_eval.spec import Spec


def wide(executor, room=2):
    return LocalExecutor(executor.command, room=room)


def tables(folder):
    return {name: (folder / name).read_bytes() for name in ("scores.csv", "costs.csv")}


def test_two_workers_give_the_tables_of_one(tmp_path):
    fakes.make_run(tmp_path / "one").go()
    run = fakes.make_run(tmp_path / "two")
    run.executor = wide(run.executor)
    assert run.go() == 0
    assert tables(tmp_path / "two") == tables(tmp_path / "one")


def test_workers_run_side_by_side_but_not_while_something_is_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    run = fakes.make_run(tmp_path)
    inner, running, most = wide(run.executor, 3), set(), []

    class Counting:
        room, close = 3, inner.close

        def start(self):
            worker = inner.start()
            send, kill = worker.send, worker.kill

            def sent(request):
                if request["do"] == "cell":
                    running.add(id(worker))
                    most.append((request["cell"]["kind"], len(running)))
                send(request)

            def killed():
                running.discard(id(worker))
                kill()

            worker.send, worker.kill = sent, killed
            return worker

    run.executor = Counting()
    assert run.go() == 0
    assert max(count for kind, count in most if kind == "score") == 3
    assert max(count for kind, count in most if kind == "cost") == 1


def test_what_one_worker_finds_out_ends_the_others(tmp_path):
    run = fakes.make_run(tmp_path, {"models": ["base", "hybrid"], "windows": []}, tasks=("fills_the_disk", "lasts"))
    run.executor = wide(run.executor, 4)
    began = time.monotonic()
    with pytest.raises(MachineError, match="No space left"):
        run.go()
    assert time.monotonic() - began < 30


def test_a_lost_worker_is_replaced(tmp_path):
    fakes.make_run(tmp_path / "whole").go()
    run = fakes.make_run(tmp_path / "lossy")
    inner, lost = wide(run.executor, 1), []

    class Losing:
        room, close = 1, inner.close

        def start(self):
            worker = inner.start()
            hear = worker.next

            def heard(timeout):
                event = hear(timeout)
                if event and event["event"] == "result" and len(lost) < 2:
                    lost.append(event["cell"])
                    return {"event": "died", "returncode": 1, "oom": False, "lost": True, "tail": ["the machine is gone"]}
                return event

            worker.next = heard
            return worker

    run.executor = Losing()
    assert run.go() == 0
    assert len(lost) == 2
    assert tables(tmp_path / "lossy") == tables(tmp_path / "whole")


def test_sharing_out():
    cell = lambda model, task, window: SimpleNamespace(model=model, task=task, length=None, window=window)  # noqa: E731
    cells = [cell(model, task, window) for model in "ab" for task in "xyz" for window in (1, 2)]
    assert [len(portion.cells) for portion in share_out(cells, 1)] == [6, 6]
    assert sorted(len(portion.cells) for portion in share_out(cells, 4)) == [2, 2, 4, 4]
    for room in (1, 2, 3, 4, 9):
        portions = share_out(cells, room)
        shares = {portion.share: portion.cells for portion in portions}
        assert sorted(id(c) for share in shares.values() for c in share) == sorted(map(id, cells))
        assert all(len({c.model for c in share}) == 1 for share in shares.values())
        where = {}
        for i, share in shares.items():
            for c in share:
                assert where.setdefault((c.model, c.task), i) == i
    assert share_out([], 3) == []


def test_more_workers_than_shares_answer_parts():
    cells = [SimpleNamespace(model="a", task=task, length=None) for task in "xy"]
    portions = share_out(cells, 5)
    assert [(portion.share, portion.part, portion.of) for portion in portions] == [
        *((0, part, 3) for part in range(3)),
        *((1, part, 2) for part in range(2)),
    ]


@pytest.mark.parametrize("kills", [0, 2])
def test_several_workers_answer_one_cells_documents(tmp_path, monkeypatch, kills):
    """One task and window, three workers: each document is asked once, and the score is that of one worker."""
    log = tmp_path / "asked"
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    changes = {"models": ["base"], "windows": [16]}
    fakes.make_run(tmp_path / "one", changes, tasks=("timing",)).go()
    log.unlink()
    run = fakes.make_run(tmp_path / "three", changes, tasks=("timing",))
    run.executor, started = wide(run.executor, 3), []
    start = run.executor.start

    def starting():
        # Several threads start workers at once.
        worker = start()
        started.append(worker)
        if len(started) <= kills:
            threading.Timer(1.0, worker.kill).start()
        return worker

    run.executor.start = starting
    assert run.go() == 0
    assert tables(tmp_path / "three") == tables(tmp_path / "one")
    asked = Counter(log.read_text().split("\n")[:-1])
    assert len(asked) == fakes.DOCUMENTS and sum(asked.values()) - len(asked) <= kills
    assert len(started) == 4


def test_shares_of_one_cell_are_gathered(tmp_path, monkeypatch):
    log = tmp_path / "asked"
    monkeypatch.setenv("FAKE_LOG", str(log))
    changes = {"models": ["base"], "windows": [16]}
    fakes.make_run(tmp_path / "one", changes, tasks=("timing",)).go()
    log.unlink()
    for number in (2, 1):
        assert fakes.make_run(tmp_path / "two", {**changes, "share": f"{number}/2"}, tasks=("timing",)).go() == 0
    assert len(log.read_text().splitlines()) == fakes.DOCUMENTS
    assert fakes.make_run(tmp_path / "two", changes, tasks=("timing",)).go() == 0
    assert len(log.read_text().splitlines()) == fakes.DOCUMENTS
    assert tables(tmp_path / "two") == tables(tmp_path / "one")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"address": "auto"}, "address 'auto' is of a Ray cluster: add --executor ray"),
        ({"workers": 2, "device": "cuda:1"}, "2 workers were asked for on 'cuda:1': give --device cuda"),
    ],
)
def test_settings_that_do_not_go_together(changes, said):
    with pytest.raises(UserError, match=said):
        make_executor(Spec(models=["m"], **({"device": "cpu"} | changes)), {}, 1)


def test_each_local_worker_gets_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    executor = make_executor(Spec(models=["m"], device="cuda", workers=2), {}, 1)
    assert executor.room == 2
    assert [next(executor._gpus) for _ in range(3)] == ["3", "5", "3"]


def test_ray_that_is_not_there(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"wants the package ray, which is not installed: pip install .\[ray\]"):
        RayExecutor().start()


def test_shares_are_gathered(tmp_path):
    fakes.make_run(tmp_path / "one").go()
    for number in (1, 2, 3):
        share = fakes.make_run(tmp_path / "whole", {"share": f"{number}/3"})
        assert share.go() == 0
        assert share.path == tmp_path / "whole" / "shares" / f"{number}-of-3"
    broken = next((tmp_path / "whole" / "shares" / "1-of-3" / "cells").glob("*.json"))
    broken.write_text(broken.read_text()[:-20])
    gathered = fakes.make_run(tmp_path / "whole")
    assert gathered.go() == 0
    assert tables(tmp_path / "whole") == tables(tmp_path / "one")
    models = json.loads((tmp_path / "whole" / "environment.json").read_text())["models"]
    assert {name: about["weights_hash"] for name, about in models.items()} == {"base": "f00", "hybrid": "f00"}
    again = fakes.make_run(tmp_path / "whole")
    again.executor.command = ["/bin/false"]
    assert again.go() == 0


@pytest.mark.parametrize("share", ["0/3", "4/3", "x", "1/", "1/0", "-1/2"])
def test_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="wanted is I/N with 1 <= I <= N"):
        Spec(models=["m"], share=share)


def test_a_slurm_script_does_its_shares(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "my spec.yaml"
    spec.write_text("models: [nha-tiny]\nsuites: [recall-local]\n")
    assert cli.run(["slurm", str(spec), "--jobs", "3", "--gpus", "0", "--cpus", "2", "--partition", "cpu", "--out", "a b"]) == 0
    said = capsys.readouterr().out
    text = (tmp_path / "my spec.sbatch").read_text()
    assert "#SBATCH --array=1-3\n" in text
    assert "--gres" not in text
    for script in (text, said.splitlines()[1]):
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    # What a job would start, with a Python that only says what it was given.
    shown = text.replace(f"exec {sys.executable} -m", "printf '%s\\n'").replace("#!", "#")
    found = subprocess.run(
        ["bash"], input=shown, text=True, capture_output=True, env={**os.environ, "SLURM_ARRAY_TASK_ID": "2"}, check=True
    )
    assert found.stdout.splitlines() == ["nha_eval.cli", "eval", str(spec), "--out", "a b", "--share", "2/3"]
    assert "--dependency=afterany:$job" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["slurm", "nowhere.yaml"], "no such spec file"),
        (["slurm", "quickstart", "--time", "1 day"], "time is '1 day': wanted is one word"),
        (["slurm", "quickstart", "--partition", "a\nb"], "wanted is one word, as SLURM takes it"),
        (["slurm", "quickstart", "--jobs", "0"], "--jobs"),
        (["slurm", "quickstart", "--script", "/nowhere/x"], "cannot write /nowhere/x"),
    ],
)
def test_wrong_slurm_arguments(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_gives_the_tables_of_one_worker(cluster, tmp_path):
    fakes.make_run(tmp_path / "one").go()
    run = fakes.make_run(tmp_path / "ray")
    run.executor = RayExecutor(command=run.executor.command)
    assert run.executor.room == 2
    assert run.go() == 0
    assert tables(tmp_path / "ray") == tables(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_replaces_a_worker_whose_machine_goes(cluster, tmp_path, monkeypatch):
    fakes.make_run(tmp_path / "one").go()
    monkeypatch.setenv("FAKE_SECONDS", "0.3")
    run = fakes.make_run(tmp_path / "ray")
    inner, killed = RayExecutor(command=run.executor.command, environment={"FAKE_SECONDS": "0.3"}), []

    class Killing:
        room, close = 2, inner.close

        def start(self):
            worker = inner.start()
            if not killed:
                killed.append(cluster.get(worker._actor.pid.remote()))
                # The actor itself, as when its machine loses power: its worker goes with it.
                threading.Timer(2.0, lambda: cluster.kill(worker._actor)).start()
            return worker

    run.executor = Killing()
    assert run.go() == 0
    assert tables(tmp_path / "ray") == tables(tmp_path / "one")
    with pytest.raises(ProcessLookupError):
        os.kill(killed[0], signal.SIGCONT)


@pytest.mark.slow
def test_a_cluster_too_small(cluster):
    with pytest.raises(MachineError, match="no worker fits the Ray cluster: each wants 64 cores, and it has 2 cores"):
        _ = RayExecutor(cores=64).room


def test_no_cluster_at_an_address(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**options):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match="no Ray cluster answers at 'auto'"):
        RayExecutor("auto").start()
