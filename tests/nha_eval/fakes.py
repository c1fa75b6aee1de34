"""A run without models: a worker whose figures are a function of the cell alone, and a program that runs it.

python tests/nha_eval/fakes.py FOLDER [SECONDS_A_CELL]    # runs the fake grid into FOLDER
"""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import typer

from nha_eval import cli, worker
from nha_eval.evaluate import prepare
from nha_eval.executors import LocalExecutor
from nha_eval.plan import ModelInfo
from nha_eval.spec import Spec

DOCUMENTS = 10  # a cell
SPEC = {
    "models": [{"name": "base", "windows": ["full"]}, "hybrid"],
    "suites": ["recall", "sense"],
    "windows": [16, "full"],
    "lengths": [64, 128],
    "costs": {"lengths": [64]},
    "device": "cpu",
}


def suites() -> dict[str, list]:
    """Two suites: one task at lengths, two without."""

    def task(name: str, suite: str, lengths: tuple[int, ...]) -> SimpleNamespace:
        return SimpleNamespace(
            least_length=1,
            name=name,
            suite=suite,
            has_lengths=bool(lengths),
            default_lengths=lengths,
            protocol="contains",
            version="1.0",
            needs=(),
            sources=(),
            cut=None,
            takes_contexts=bool(lengths),
        )

    return {
        "recall": [task("needle", "recall", (64, 128))],
        "sense": [task("timing", "sense", ()), task("riddle", "sense", ())],
    }


def describe(name: str) -> ModelInfo:
    """Every name is a model of 4096 tokens, except `flat-...`, which has no windows."""
    return ModelInfo(name, name, f"weights-of-{name}", "none" if name.startswith("flat") else "full", 4096)


class FakeModel:
    """Gives figures made of the cell; does what a cell's task is called: `task` may name a calamity."""

    def __init__(self, request: dict):
        self.request = request
        self.window = None
        if request["model"] == "unloadable":
            raise ValueError("model 'unloadable' cannot be had: wanted is another one")
        if request["model"] == "huge":
            raise MemoryError("no room for the weights")

    def describe(self) -> dict:
        return {"has_window": True, "max_length": 4096, "source": "fake", "weights_hash": "f00", "threads": 1}

    def set_window(self, window, windows=None) -> None:
        self.window = window if windows is None else f"{window} {windows}"

    def backend(self) -> str:
        return "fake"

    def score(self, cell: dict, on_progress, answers) -> tuple[list[dict], list[dict]]:
        calamity(cell["task"])
        for document in range(DOCUMENTS):
            number, count = answers.part
            if str(document) in answers.known or document % count != number:
                continue
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0")) / DOCUMENTS)
            if log := os.environ.get("FAKE_LOG"):
                with Path(log).open("a") as file:
                    file.write(f"{cell['id']} {document}\n")
            answers.note({str(document): document})
            on_progress(document + 1, DOCUMENTS)
        digest = hashlib.sha256(
            f"{self.request['model']} {self.window} {cell['task']} {cell['length']} {cell['seed']}".encode()
        )
        value = int(digest.hexdigest()[:8], 16) / 2**32
        common = {"task": cell["task"], "task_version": "1.0", "protocol": "contains", "n": 10, "length": cell["length"]}
        rows = [
            {**common, "metric": "contains", "value": value, "stderr": value / 10},
            {**common, "metric": "perplexity", "value": float("inf"), "stderr": None},
        ]
        return rows, [{"doc_id": index, "correct": answers.known.get(str(index), 0) % 2} for index in range(DOCUMENTS)]

    def observe(self, cell: dict, on_progress) -> list[dict]:
        on_progress(1, 1)
        if self.request["model"] == "slotless":
            return []
        return [{"layer": 3, "n": 9, "heads": [0.25, 0.5], "positions": [[16, 31, 0.375, 9]]}]

    def cost(self, cell: dict, on_progress) -> dict:
        return {
            "latency_ms": 1.0 + cell["length"],
            "latency_ms_p25": 1.0,
            "latency_ms_p75": 2.0,
            "repeats": 3,
            "cold_start_ms": 4.0,
            "tokens_per_s": 1e3,
            "peak_memory_mb": 1.0,
            "state_bytes": 1024,
        }


class AssetUnavailable(ValueError):
    """Stands for the fetcher's own, which the worker knows by name."""


def calamity(task: str) -> None:
    """What happens to a cell of this task."""
    if task == "segfaults":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "exits":
        print("the last words", file=sys.stderr, flush=True)
        os._exit(7)
    if task == "prints":
        print('{"event": "result", "status": "error"}', flush=True)
        os.write(1, b'{"event": "result", "status": "error"}\nhalf a line')
    if task == "raises":
        raise RuntimeError("something\nbroke")
    if task == "is_too_big":
        raise MemoryError("no room")
    if task == "has_no_data":
        raise AssetUnavailable("no network")
    if task == "fills_the_disk":
        raise OSError(28, "No space left on device")
    if task == "lasts":
        time.sleep(60)


def executor() -> LocalExecutor:
    """Workers that hold a FakeModel."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import fakes; fakes.worker.main(fakes.FakeModel)"
    return LocalExecutor([sys.executable, "-c", code])


def make_run(folder: Path, changes: dict | None = None, tasks: tuple[str, ...] = (), draw=lambda path: None):
    """A Run over the fake grid, into `folder`; with `tasks` over those calamities instead of the suites."""
    known = suites()
    content = {**SPEC, "out": str(folder), **(changes or {})}
    if tasks:
        template = known["sense"][0]
        known["sense"] = [SimpleNamespace(**{**vars(template), "name": name}) for name in tasks]
        content = {**content, "suites": ["sense"], "costs": False}
    return prepare(Spec.model_validate(content), describe=describe, suites=known, executor=executor(), draw=draw)


def program(folder: str, seconds: str = "0", tasks: str = "") -> None:
    """Run the fake grid as the command line would, its messages and exit codes included."""
    os.environ["FAKE_SECONDS"] = seconds
    names = tuple(name for name in tasks.split(",") if name)

    def command() -> int:
        """Run the fake grid."""
        return make_run(Path(folder), tasks=names).go()

    app = typer.Typer()
    app.command()(command)
    cli.make_app = lambda: app
    sys.argv = ["fakes"]
    cli.main()


if __name__ == "__main__":
    program(*sys.argv[1:])

__all__ = ["describe", "executor", "make_run", "program", "suites", "worker"]
