"""The worker: one process that holds one model and works through its cells.

It reads requests as JSON lines from stdin (`load`, then `cell` after `cell`) and writes events to what was its stdout, the
model's answers batch by batch among them; everything that libraries print goes to stderr. It never writes into the run
folder. Whatever a cell raises becomes that cell's result; the worker itself ends when its stdin does, or when the runner
dies. Started by the runner: `python -m nha_eval.worker`.
"""

import contextlib
import ctypes
import json
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from nha_eval.answers import Answers
from nha_eval.errors import is_disk_trouble, is_out_of_memory, one_line
from nha_eval.journal import plain
from nha_eval.telemetry import NO_SHARE
from nha_eval.tuning import tuning
from nha_eval.window_settings import resolve

PROGRESS_EVERY = 0.2  # seconds
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class Model:
    """What the worker needs of a model, over `models.presets.load`, lm-eval and the cost meter. Everything heavy is
    imported when first needed.
    """

    def __init__(self, request: dict[str, Any]):
        import torch

        from models.presets import load

        torch.set_num_threads(request["threads"])
        # Some operators have no deterministic form; those warn, and the figures say what they are.
        torch.use_deterministic_algorithms(request["device"] != "cpu", warn_only=True)
        self.loaded = load(request["model"], device=request["device"], dtype=request["dtype"])
        self._own_windows = list(getattr(self.loaded.model.config, "windows", None) or [])
        self._lms: dict[int, Any] = {}
        self._meter: Any = None
        self._window: Any = "own"

    def describe(self) -> dict[str, Any]:
        """What the runner notes about the model and the device."""
        import torch

        from nha_eval.verdicts import device_label, stamp

        device = next(self.loaded.model.parameters()).device
        return {
            "has_window": self.loaded.has_window,
            "max_length": self.loaded.max_length,
            "source": str(self.loaded.source),
            "weights_hash": self.loaded.weights_hash,
            "threads": torch.get_num_threads(),
            "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "parameters": sum(p.numel() for p in self.loaded.model.parameters()),
            "random_weights": self.loaded.random_weights,
            # Of this process, as it is the one that computes.
            "doctor": stamp(device_label(device), sorted(set(self.loaded.model.config.mixers))),
        }

    def backend(self) -> str:
        """What the layers run on at their windows as they are."""
        return self.loaded.model.backend()

    def set_window(self, window: Any, windows: list[Any] | None = None) -> None:
        """Bring the model to a cell's window; "own" is what each layer came with, "none" a model without windows. `windows` are
        those of a setting by name, one a layer. Raises UserError where they do not fit the model.
        """
        wanted = window if windows is None else tuple(windows)
        if wanted == self._window or window == "none":
            return
        # Not known until all layers are set: what one of them refuses must not leave the last window's name.
        self._window = None
        if windows is not None:
            fitting = resolve(window, windows, self._least_windows(), self.loaded.name)
            self._set_layers([None if tokens == "full" else tokens for tokens in fitting])
        elif window == "own":
            self._set_layers(self._own_windows)
        else:
            self.loaded.model.set_window(None if window == "full" else window)
        if self._meter is not None:
            self._meter.forget()
        self._window = wanted

    def _set_layers(self, windows: list[int | None]) -> None:
        for i, layer in enumerate(self.loaded.model.decoder_layers):
            if layer.self_attn.has_window:
                self.loaded.model.set_window(windows[i], layers=[i])

    def _least_windows(self) -> list[int | None]:
        mixers = [layer.self_attn for layer in self.loaded.model.decoder_layers]
        return [mixer.smallest_window if mixer.has_window else None for mixer in mixers]

    def _lm(self, batch: int | str) -> Any:
        from nha_eval.lm import HarnessLM

        self._meter = None
        if batch not in self._lms:
            self._lms = {batch: HarnessLM(self.loaded, batch_size=batch)}
        return self._lms[batch]

    def score(
        self, cell: dict[str, Any], on_progress: Callable[[int, int], None], answers: Answers
    ) -> tuple[list[dict], list[dict]]:
        from nha_eval.scoring import score_task

        lm = self._lm(cell["batch"])
        lm.on_progress = on_progress
        outcome = score_task(lm, cell["task"], answers=answers, **_asked(cell))
        return [vars(row) if hasattr(row, "__dict__") else row._asdict() for row in outcome.rows], outcome.samples

    def observe(self, cell: dict[str, Any], on_progress: Callable[[int, int], None]) -> list[dict[str, Any]]:
        """Rows as `models.telemetry.SlotShares.table` gives them, of a sample of the cell's prompts."""
        from nha_eval.observing import observe_task

        return observe_task(self._lm(cell["batch"]), cell["task"], on_progress=on_progress, **_asked(cell))

    def cost(self, cell: dict[str, Any], on_progress: Callable[[int, int], None]) -> dict[str, Any]:
        from nha_eval.costs import CostMeter

        if self._meter is None:
            self._meter = CostMeter(self.loaded.model, max_length=self.loaded.max_length)
        chosen = {key: cell[key] for key in ("length", "batch", "repeats", "decode_tokens", "seconds", "seed")}
        return self._meter.measure(cell["phase"], **chosen, on_progress=on_progress)


def _asked(cell: dict[str, Any]) -> dict[str, Any]:
    """What decides a task's documents, as `score_task` takes it."""
    chosen = {key: cell[key] for key in ("length", "limit", "seed", "contexts", "truncation", "tokenizer")}
    return {**chosen, "data": {name: path for name, path, _ in cell["data"] or ()}}


def work(
    requests: Iterator[dict[str, Any]],
    send: Callable[[dict[str, Any]], None],
    open_model: Callable[[dict[str, Any]], Any] = Model,
) -> None:
    """Serve requests until they end. `open_model(load request)` gives an object with Model's methods."""
    model = None
    for request in requests:
        try:
            if request["do"] == "load":
                model = open_model(request)
                send({"event": "ready", **model.describe()})
            else:
                send(_work_cell(model, request["cell"], request.get("answers"), request.get("part"), send))
        except BaseException as problem:
            if isinstance(problem, SystemExit):
                raise
            if is_disk_trouble(problem):
                send({"event": "machine", "message": one_line(problem)})
            elif is_out_of_memory(problem):
                send({"event": "refused", "kind": "oom", "message": one_line(problem)})
            else:
                # A ValueError is written for users; anything else is shown with its type.
                expected = isinstance(problem, ValueError)
                send(
                    {
                        "event": "refused",
                        "kind": "model",
                        "message": " ".join(str(problem).split()) if expected else one_line(problem),
                        "detail": traceback.format_exc(),
                    }
                )


def _work_cell(
    model: Any,
    cell: dict[str, Any],
    known: dict[str, Any] | None,
    part: list[int] | None,
    send: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    started = time.monotonic()
    last = [0.0]

    def on_progress(done: int, total: int) -> None:
        if time.monotonic() - last[0] >= PROGRESS_EVERY:
            last[0] = time.monotonic()
            send({"event": "progress", "cell": cell["id"], "done": done, "total": total})

    result: dict[str, Any] = {"event": "result", "cell": cell["id"], "status": "ok", "reason": None}
    try:
        seed_everything(cell["seed"])
        model.set_window(cell["window"], cell.get("windows"))
        result["backend"] = model.backend()
        if cell["kind"] == "cost":
            result["rows"] = [model.cost(cell, on_progress)]
        elif cell["kind"] == "telemetry":
            result["rows"] = model.observe(cell, on_progress)
            if not result["rows"]:
                result["reason"] = NO_SHARE
        else:
            tell = lambda found: send({"event": "answers", "cell": cell["id"], "answers": found})  # noqa: E731
            answers = Answers(known, tell, tuple(part or (0, 1)))
            result["rows"], result["samples"] = model.score(cell, on_progress, answers)
        if cell["device"].startswith("cuda") and (chosen := tuning()) is not None:
            result["tuning"] = chosen
        if not result["rows"] and result["reason"] is None:
            raise RuntimeError("the measurement gave no figures")
    except Exception as problem:
        if is_disk_trouble(problem):
            raise
        status = "oom" if is_out_of_memory(problem) else "unavailable" if is_unavailable(problem) else "error"
        result.update(status=status, reason=one_line(problem), rows=[], detail=traceback.format_exc())
        result.pop("samples", None)
        _release_memory()
    return {**result, "seconds": round(time.monotonic() - started, 3)}


def is_unavailable(problem: BaseException | None) -> bool:
    """Whether this, or what caused it, says that data could not be had."""
    seen: BaseException | None = problem
    while seen is not None:
        # By name: importing the class would cost the fetcher's imports, and several layers may wrap it.
        if any(kind.__name__ == "AssetUnavailable" for kind in type(seen).__mro__):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _release_memory() -> None:
    import gc

    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def seed_everything(seed: int) -> None:
    """Seed every generator that is loaded, so that a cell gives the same whichever cells came before it."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def end_with_parent() -> None:
    """Have the system end this process when the runner dies, however busy it is (Linux; elsewhere the end of stdin does
    it).
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _requests_until_eof(stream: TextIO) -> Iterator[dict[str, Any]]:
    """Requests as they come; read on a thread, because the end of stdin has to end a process that is busy, too."""
    waiting: queue.Queue[dict[str, Any]] = queue.Queue()

    def read() -> None:
        for line in stream:
            waiting.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def main(open_model: Callable[[dict[str, Any]], Any] = Model) -> None:
    """Serve the runner that started this process."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print to stdout as they please; the channel to the runner moves out of their way.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    lock = threading.Lock()

    def send(event: dict[str, Any]) -> None:
        with lock:
            channel.write(json.dumps(plain(event)) + "\n")
            channel.flush()

    work(_requests_until_eof(sys.stdin), send, open_model)


if __name__ == "__main__":
    main()
