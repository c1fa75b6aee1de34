"""MQAR trainings side by side on one GPU: a step of each is one CUDA graph, and each training has a stream of its own.

A step of models so small is some hundreds of kernels of a few microseconds, which Python takes ten times as long to launch. So
all that a step needs lies on the GPU before the first one, its own rows and learning rates among it, and the host does nothing
but replay. Of streams the kernels of several trainings run at once, where one of them would leave most of the GPU idle.

    records = train_together(spec, cells, torch.device("cuda", 0), torch.float32)

A graph is taken only where its replays give the losses that the same steps gave from Python; what cannot be captured is called
from Python, with the same results. The trainings are those of `training.train_cell`: the same weights at first, batches, rates
and optimizer. Nothing of a training is kept until it is done; one that is broken off begins anew.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import get_scheduler

from kernels.standing import auto_backend
from models.presets import pattern_parts
from nha_eval.errors import is_out_of_memory, one_line
from nha_eval.training.graphed import as_it_was, why_not
from nha_eval.training.mqar.cells import Cell
from nha_eval.training.mqar.data import Batches, split_on
from nha_eval.training.mqar.spec import MqarSpec
from nha_eval.training.mqar.training import LEAST_LOSS, Recall, build, log_every, measured_rows, selection_accuracy
from nha_eval.training.trainer import LossWatch

# flash-linear-attention tunes its kernels for each shape, which takes longer than these trainings do: plain torch forms, whose
# many small kernels a graph makes cheap, come out ahead.
PLAIN = ("gla", "gated_deltanet", "mamba2")
TRIED = 3  # times that each kind of batch is tried from Python and by its graph
# Replays may differ from the same steps called from Python by the order of sums: by so much of what the loss moved.
LIKE = 0.05
PRECISION = "tf32"  # of torch's products of fp32 matrices on a GPU, as trainings in fp32 mostly have them there


def has_plain_form(cell: Cell) -> bool:
    """Whether a cell's mixer has a matrix for a state, and runs on a plain torch form here."""
    return pattern_parts(cell.shape.mixer)[0] in PLAIN


@contextmanager
def forms_of(cells: list[Cell]) -> Iterator[None]:
    """Inside, the mixers run on the forms that they have here: plain torch ones all, or none."""
    (plain,) = set(map(has_plain_form, cells))
    with auto_backend("chunked") if plain else nullcontext():
        yield


def train_together(spec: MqarSpec, cells: list[Cell], device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    """The records of the cells, which are of one task, all on plain forms or none, in their order. Going out of memory and
    diverging are results; what goes out of memory together is trained one at a time.
    """
    with forms_of(cells):
        try:
            return _together(spec, cells, device, dtype)
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            reason = one_line(problem)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if len(cells) == 1:
        return [{"status": "oom", "reason": reason, "rows": [], "seconds": 0.0}]
    return [record for cell in cells for record in train_together(spec, [cell], device, dtype)]


def _together(spec: MqarSpec, cells: list[Cell], device: torch.device, dtype: torch.dtype) -> list[dict[str, Any]]:
    began = time.monotonic()
    with _on(device):
        sides = [Side(spec, cell, device, dtype) for cell in cells]
        for side in sides:
            side.prepare()
        steps, every = sides[0].steps, spec.select_every or sides[0].of_epoch
        done, stepping = 0, 0.0
        for begin in range(0, steps, every):
            end = min(begin + every, steps)
            running = [side for side in sides if side.running]
            started = time.monotonic()
            for step in range(begin, end):
                for side in running:
                    side.go(step)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            done, stepping = done + len(running) * (end - begin), stepping + time.monotonic() - started
            for side in running:
                side.look(end)
        records = [side.record() for side in sides]
        for side in sides:
            # Who holds a graph holds its memory, and steps hold their training.
            side.calls.clear()
    # Of trainings side by side each took its share; steps_per_s is of all, without what preparing and measuring took.
    about = {"seconds": round((time.monotonic() - began) / len(cells), 3), "side_by_side": len(cells)}
    return [{**record, **about, "steps_per_s": round(done / stepping, 1)} for record in records]


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Where work goes to the device by default, and torch's products of fp32 matrices are in `PRECISION` if it is a GPU."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.cuda.device(device):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Side:
    """One training. `running` until it stops early or diverges."""

    def __init__(self, spec: MqarSpec, cell: Cell, device: torch.device, dtype: torch.dtype):
        self.spec, self.cell, self.device, self.dtype = spec, cell, device, dtype
        self.objective = Recall(build(spec, cell).to(device))
        self.weights = list(self.objective.parameters())
        data = Batches(spec, cell.task, cell.seed)
        self.steps, self.of_epoch = data.steps, data.of_epoch
        self.kinds, rows = data.order()
        self.rows = torch.from_numpy(rows).to(device)
        self.data = [split_on(device, spec, "train", kind, kind.examples) for kind in cell.task.train]
        self.planned = schedule_of(spec, self.steps, cell.rate)
        self.rates = torch.tensor(self.planned, device=device)
        self.rate = torch.zeros((), device=device)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.losses = torch.zeros(self.steps, device=device)
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=self.rate, weight_decay=spec.weight_decay, fused=on_gpu, capturable=on_gpu
        )
        self.stream = torch.cuda.Stream(device) if on_gpu else None
        self.calls: dict[int, Callable[[], None]] = {}
        self.why_eager = "" if on_gpu else "CUDA graphs want a GPU"
        self.running, self.reason, self.done = True, "", 0
        self.watch, self.read = LossWatch(LEAST_LOSS), 0
        self.history: list[tuple[int, float]] = []
        self.logged: list[tuple[int, float]] = []

    def on_stream(self):
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _step(self, kind: int) -> None:
        """One step on a batch of a kind: that which `at` says, at its rate. Nothing of it is read on the host."""
        rows = self.rows.index_select(0, self.at)[0]
        batch = {name: part.index_select(0, rows).long() for name, part in self.data[kind].items()}
        self.rate.copy_(self.rates.index_select(0, self.at)[0])
        self.optimizer.zero_grad(set_to_none=True)
        # A cache of cast weights would outlive the capture.
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32, cache_enabled=False):
            loss = self.objective(**batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.spec.clip)
        self.optimizer.step()
        self.losses.index_copy_(0, self.at, loss.detach()[None])
        self.at.add_(1)

    def prepare(self) -> None:
        """Makes the graphs, by a few steps whose traces are wiped out; where there are none, steps are called from Python."""
        eager = self.calls = {kind: partial(self._step, kind) for kind in range(len(self.data))}
        if self.stream is None:
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with self.on_stream():
            begun = [p.detach().clone() for p in self.weights]
        wanted = self._tried()
        try:
            self._start_again(begun)
            with as_it_was(self.device):
                self.calls = self._captured()
            found = self._tried()
            moved = (wanted.max() - wanted.min()).clamp(min=1e-4)
            if not bool(((found - wanted).abs() <= LIKE * moved).all()):
                self.calls, self.why_eager = eager, "its graph gave other losses"
        except Exception as problem:
            self.calls, self.why_eager = eager, why_not(problem)
        if self.why_eager:
            # At once, for such a training takes many times as long.
            Console(stderr=True, highlight=False, soft_wrap=True).print(
                f"{self.cell.shape.label}, seed {self.cell.seed}: steps are called from Python: {self.why_eager}", markup=False
            )
        self._start_again(begun)

    def _tried(self) -> Tensor:
        """The losses of a few steps of each kind, each at its highest rate: where that is low, a step would change nothing."""
        at_rates = sorted(range(self.steps), key=self.planned.__getitem__)
        places = {self.kinds[step]: step for step in at_rates}
        losses = []
        with self.on_stream():
            for _ in range(TRIED):
                for kind, call in self.calls.items():
                    self.at.fill_(places[kind])
                    call()
                    losses.append(self.losses[places[kind]].clone())
            return torch.stack(losses).cpu()

    def _captured(self) -> dict[int, Callable[[], None]]:
        # They never run at once, so that one's memory serves the next.
        pool, found = torch.cuda.graph_pool_handle(), {}
        for kind in self.calls:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                self._step(kind)
            found[kind] = graph.replay
        return found

    @torch.no_grad()
    def _start_again(self, begun: list[Tensor]) -> None:
        """As before the first step, at the same addresses."""
        with self.on_stream():
            for p, first in zip(self.weights, begun, strict=True):
                p.copy_(first)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
            self.losses.zero_()
            self.at.zero_()

    def go(self, step: int) -> None:
        """Step number `step`, which comes after the one before it."""
        with self.on_stream():
            self.calls[self.kinds[step]]()

    def look(self, done: int) -> None:
        """After `done` steps: what became of the losses, and the accuracy on the selection split."""
        self.done = done
        with self.on_stream():
            losses = self.losses[:done].tolist()
            each = log_every(self.steps)
            while self.running and self.read < done and (self.read + each <= done or done == self.steps):
                until = min(self.read + each, done)
                self._log(until, losses[self.read : until])
                self.read = until
            if not self.running:
                return
            accuracy = selection_accuracy(self.spec, self.cell, self.objective, self.dtype)
        self.history.append((done, accuracy))
        if self.spec.stop_at is not None and accuracy >= self.spec.stop_at:
            self.running = False

    def _log(self, step: int, losses: list[float]) -> None:
        mean = sum(losses) / len(losses)
        self.logged.append((step, mean))
        why = self.watch.wrong(mean) if math.isfinite(mean) else "the loss is no finite number"
        if why is not None:
            self.running, self.reason = False, f"Diverged: {why} at step {step}: give a lower learning rate"

    def record(self) -> dict[str, Any]:
        """As of `training.train_cell`, without the seconds."""
        about = {"backend": self.objective.model.backend(), "graph": not self.why_eager, "called_from_python": self.why_eager}
        if self.reason:
            return {"status": "error", "reason": self.reason, "rows": [], **about}
        with self.on_stream():
            rows = measured_rows(self.spec, self.cell, self.objective, self.dtype)
        return {
            "status": "ok",
            "reason": "",
            "steps": self.done,
            "stopped_early": self.done < self.steps,
            "selection": self.history[-1][1],
            "history": self.history,
            "losses": self.logged,
            "rows": rows,
            **about,
        }


def schedule_of(spec: MqarSpec, steps: int, rate: float) -> list[float]:
    """The learning rate of each step, as Transformers' schedules have it."""
    idle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    (share,) = get_scheduler(spec.schedule, idle, math.ceil(spec.warmup * steps), steps).lr_lambdas
    return [rate * share(step) for step in range(steps)]
