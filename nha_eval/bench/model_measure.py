"""The cases of one model become rows: it is built once, its windows set in place, and it is gone before the next one comes.

Nothing that a model does ends the run: what it raises is the row's status and reason. Each row has the first call apart
(`cold_start_ms`: compiling and tuning in it, where these were not done before), then warm-up and repeats as in
`nha_eval.warming`. Decoding on a GPU is timed as a CUDA graph, and so are the phases of that name; the first call is not one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nha_eval.bench import families, model_work
from nha_eval.bench.fitting import most_that_fits
from nha_eval.bench.machine import device_name, dtype_name, free_bytes, healthy
from nha_eval.bench.model_grid import GRAPHED, LARGEST, LONGEST, ModelCase
from nha_eval.bench.model_work import Work
from nha_eval.bench.running import explain, tidy
from nha_eval.bench.setting import Draw
from nha_eval.bench.timing import captured, one_ms, quartiles, significant
from nha_eval.errors import is_out_of_memory, one_line
from nha_eval.peak_memory import PeakMemory
from nha_eval.training.flops import step_flops
from nha_eval.warming import warm_times

MOST_SEQUENCES = {"cuda": 8192, "cpu": 16}
LONGEST_TRIED = {"cuda": 2**20, "cpu": 2**14}  # tokens
GRAIN = 1024  # tokens, in which the longest context is sought
ROOM = 0.95  # of the free memory is what an estimate shares out
# Of the most that was found to fit: what ran in a trial may not run again, as memory falls into pieces.
STEPS_BACK = (1.0, 0.9, 0.75, 0.5)


class CannotCapture(RuntimeError):
    """A call that was to be timed as a CUDA graph and cannot be one."""


class WrongResult(RuntimeError):
    """Logits or a loss that are not finite."""


@dataclass(frozen=True)
class RowBudget:
    """For one row, after its first call: at most `repeats` within `seconds`, warm-up among them; three are always made."""

    seconds: float = 2.0
    repeats: int = 20


@dataclass
class Subject:
    """A model that is measured, and what every row says of it."""

    model: nn.Module
    family: Any
    parameters: int
    weight_bytes: int  # that decoding a token reads: all but the table of embeddings, of which it reads a row
    captures: dict[str, bool] = field(default_factory=dict)  # by window


@dataclass
class ModelMeter:
    """Measures on one device; `gbps` is the copy ceiling of the same run."""

    device: torch.device
    dtype: torch.dtype
    seed: int
    budget: RowBudget
    gbps: float

    @property
    def graphs(self) -> bool:
        """Whether decoding is timed as a CUDA graph."""
        return self.device.type == "cuda"

    def measure(self, cases: list[ModelCase]) -> Iterator[dict[str, Any]]:
        """A row for each case, all of one model and size. MachineError when the GPU takes no more work."""
        first = cases[0]
        family = families.find(first.model)
        subject, failure = None, None
        refusal = family.refusal(first.model, self.device)
        if refusal is not None:
            failure = _failed("unavailable", refusal)
        else:
            try:
                model = families.random_model(first.model, first.size, self.device, self.dtype, self.seed)
                subject = Subject(model, family, *_weights(model))
                del model
            except Exception as problem:
                failure = _failed(*explain(family, problem))
        for case in cases:
            yield {**self._about(case, subject), **(failure or self._row(case, subject))}
            healthy(self.device)
        subject = None
        tidy(self.device)

    def _row(self, case: ModelCase, subject: Subject) -> dict[str, Any]:
        sought = case.length == LONGEST or case.batch == LARGEST
        for share in STEPS_BACK if sought else STEPS_BACK[:1]:
            try:
                found = self._measured(case, subject, share)
            except CannotCapture as problem:
                found = _failed("unavailable", str(problem))
            except Exception as problem:
                found = _failed(*explain(subject.family, problem))
            # Not inside the handler: the exception would keep its tensors alive.
            tidy(self.device)
            if found["status"] != "oom":
                break
        return found

    def _measured(self, case: ModelCase, subject: Subject, share: float) -> dict[str, Any]:
        length, batch, note = self._sought(case, subject)
        if share < 1:
            note += f"; {share:g} of the {batch if case.batch == LARGEST else length:,} that fitted then"
            length = int(share * length) // GRAIN * GRAIN if case.length == LONGEST else length
            batch = int(share * batch) if case.batch == LARGEST else batch
        if not (length and batch):
            return _failed("oom", f"not even one sequence fits ({note})")
        with self._work(case, subject, batch, length) as work:
            timed = self._timed(work, note, case.phase)
            return {
                "length": length,
                "batch": batch,
                "backend": subject.family.backend(subject.model),
                "state_bytes": None if case.work == "train" else subject.family.state_bytes(subject.model, batch, length),
                **timed,
                **(self._floor(subject, timed["latency_ms"]) if case.phase == "decode" else {}),
                **(self._arithmetic(case, subject, length, timed["tokens_per_s"]) if case.work == "train" else {}),
                "status": "ok",
            }

    # ---- what is timed

    def _work(self, case: ModelCase, subject: Subject, batch: int, length: int) -> AbstractContextManager[Work]:
        draw = Draw(self.seed, self.device, self.dtype)
        self._set_window(case, subject, length)
        if case.work == "train":
            return model_work.train(subject.model, case.checkpointing, batch, length, draw)
        make = model_work.prefill if case.work == "prefill" else model_work.decode
        return make(subject.model, subject.family, batch, length, draw)

    def _set_window(self, case: ModelCase, subject: Subject, length: int) -> None:
        tokens = case.window_tokens(length)
        if case.layers is not None:
            subject.family.set_windows(subject.model, case.layers)
        elif tokens is not None:
            subject.family.set_window(subject.model, tokens)

    def _timed(self, work: Work, note: str, phase: str) -> dict[str, Any]:
        with PeakMemory(self.device) as peak:
            results: list[torch.Tensor] = []
            cold = one_ms(lambda: results.append(work.call()), self.device)
            if not bool(results.pop().isfinite().all()):
                raise WrongResult("logits or loss are not finite; not timed")
            call, graph = work.call, False
            if phase in GRAPHED:
                call, graph = self._captured(work), True
            elif phase == "decode" and self.graphs:
                call, graph, note = self._graph(work, note)
            # The budget begins here: compiling in the first call would leave nothing of it.
            began = time.monotonic()
            times = warm_times(
                lambda: one_ms(call, self.device),
                one_ms(call, self.device),
                repeats=self.budget.repeats,
                seconds=self.budget.seconds,
                began=began,
                per_second=1e3,
            )
        low, middle, high = quartiles(times)
        return {
            "latency_ms": significant(middle),
            "latency_ms_p25": significant(low),
            "latency_ms_p75": significant(high),
            "repeats": len(times),
            "cold_start_ms": significant(cold),
            "graph": graph,
            "tokens_per_s": significant(1e3 * work.tokens / middle),
            "peak_memory_mb": round(peak.mebibytes, 1),
            "state_bytes_held": work.held(),
            "note": note,
        }

    def _captured(self, work: Work) -> Callable[[], Any]:
        """The call as a CUDA graph; CannotCapture where something in it cannot be captured."""
        try:
            return captured(work.call)
        except Exception as problem:
            if is_out_of_memory(problem):
                raise
            raise CannotCapture(f"it cannot be captured: {one_line(problem, 120)}") from problem

    def _graph(self, work: Work, note: str) -> tuple[Callable[[], Any], bool, str]:
        """The call as a CUDA graph; where something in it cannot be captured, as it is, with a note that says so."""
        try:
            return self._captured(work), True, note
        except CannotCapture as problem:
            said = f"called from Python, as {problem}"
        return work.call, False, f"{note}; {said}" if note else said

    # ---- what fits

    def _sought(self, case: ModelCase, subject: Subject) -> tuple[int, int, str]:
        """(length, batch, note) of the case, what was asked for as LONGEST or LARGEST found by trying; 0 where nothing fits."""
        if case.length == LONGEST:
            return self._longest(case, subject)
        if case.batch == LARGEST:
            return self._largest(case, subject)
        return case.length, case.batch, ""

    def _largest(self, case: ModelCase, subject: Subject) -> tuple[int, int, str]:
        most = MOST_SEQUENCES[self.device.type]
        each = self._bytes(case, subject, case.length) + self._scratch(case, subject, case.length)
        guess = int(ROOM * free_bytes(self.device) / each)
        batch = most_that_fits(guess, most, lambda batch: self._fits(case, subject, batch, case.length))
        return (
            case.length,
            batch,
            f"estimated {min(guess, most):,}, tried" + (f"; no more than {most:,} are" if guess > most else ""),
        )

    def _longest(self, case: ModelCase, subject: Subject) -> tuple[int, int, str]:
        most = LONGEST_TRIED[self.device.type]
        growth = (self._bytes(case, subject, most) - self._bytes(case, subject, most // 2)) / (most // 2)
        if growth <= 0:
            return most, case.batch, f"the state is as large at any context; no longer one than {most:,} is tried"
        scratch = case.batch * self._scratch(case, subject, most)
        guess = int((ROOM * free_bytes(self.device) - scratch) / (case.batch * growth)) // GRAIN
        grains = most_that_fits(guess, most // GRAIN, lambda n: self._fits(case, subject, case.batch, n * GRAIN))
        note = f"estimated {min(guess * GRAIN, most):,}, tried" + (
            f"; no longer one than {most:,} is" if guess * GRAIN > most else ""
        )
        return grains * GRAIN, case.batch, note

    def _fits(self, case: ModelCase, subject: Subject, batch: int, length: int) -> bool:
        captures = self._captures(case, subject)
        try:
            with self._work(case, subject, batch, length) as work:
                one_ms(work.call, self.device)
                # Memory that runs out within a capture may show as any error.
                fits = not captures or self._graph(work, "")[1]
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            fits = False
        tidy(self.device)
        return fits

    def _captures(self, case: ModelCase, subject: Subject) -> bool:
        """Whether a small step at the case's window can be captured in a CUDA graph."""
        if self.graphs and case.window not in subject.captures:
            with self._work(case, subject, 1, GRAIN) as work:
                work.call()
                subject.captures[case.window] = self._graph(work, "")[1]
        return self.graphs and subject.captures[case.window]

    def _bytes(self, case: ModelCase, subject: Subject, length: int) -> int:
        """Of one sequence's cache: by the model's own count, or else of one made and looked at."""
        self._set_window(case, subject, length)
        counted = subject.family.state_bytes(subject.model, 1, length)
        if counted is not None:
            return counted
        with self._work(case, subject, 1, length) as work:
            return work.held()

    def _scratch(self, case: ModelCase, subject: Subject, length: int) -> int:
        """About what one sequence's step needs besides: logits in the dtype and in fp32, a layer's new state, and the
        feed-forward's few vectors."""
        config, itemsize = subject.model.config, self.dtype.itemsize
        wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        layer = self._bytes(case, subject, min(length, GRAIN)) // config.num_hidden_layers
        return config.vocab_size * (itemsize + 4) + layer + 8 * wide * itemsize

    # ---- what every row says

    def _about(self, case: ModelCase, subject: Subject | None) -> dict[str, Any]:
        return {
            **case_key(case, self.dtype),
            "length": case.length if case.length != LONGEST else None,
            "batch": case.batch if case.batch != LARGEST else None,
            "parameters": None if subject is None else subject.parameters,
            "device": device_name(self.device),
        }

    def _arithmetic(self, case: ModelCase, subject: Subject, length: int, rate: float) -> dict[str, Any]:
        """TFLOP/s of what a training step at so many tokens/s needs; nothing where it is not counted."""
        twin = subject.family.twin(case.model)
        window = case.window if case.window in ("full", "none") else case.window_tokens(length)
        if twin is None or window is None:
            return {}
        return {"tflops": significant(step_flops(twin, case.size, window, length) * rate / 1e12)}

    def _floor(self, subject: Subject, middle: float) -> dict[str, Any]:
        """The time that the weights' bytes take at the copy ceiling, and how much of the median, in ms, that is."""
        floor = subject.weight_bytes / self.gbps / 1e6
        return {
            "weight_bytes": subject.weight_bytes,
            "floor_ms": significant(floor),
            "floor_share": significant(floor / middle),
        }


def case_key(case: ModelCase, dtype: torch.dtype) -> dict[str, Any]:
    """What the table's key wants to know of a case."""
    return {
        "model": case.model,
        "size": case.size,
        "phase": case.phase,
        "length_asked": case.length,
        "batch_asked": case.batch,
        "window": case.window,
        "checkpointing": case.checkpointing,
        "dtype": dtype_name(dtype),
    }


def _weights(model: nn.Module) -> tuple[int, int]:
    """(number of parameters, bytes of those that decoding a token reads)."""
    parameters = list(model.parameters())
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    skipped = 0 if table is head else table.nbytes
    return sum(p.numel() for p in parameters), sum(p.nbytes for p in parameters) - skipped


def _failed(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason}
