"""Runs a spec: cell by cell through workers, each result into the journal, tables and report kept readable throughout.

    from nha_eval.runner import Run
    Run(cells, settings, Path("results/runs/try"), threads=2).go()

The same call again goes on where the last one stopped: cells that are `ok` or `oom` are kept, the others done again from the
next document on. A worker holds one model; when it dies, the cell in hand gets that as its result and a new worker goes on.
Where an executor has room for several workers, what is timed is done first, by one of them alone, and the scores are shared
out. Nothing here imports torch.
"""

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

from nha_eval import environment
from nha_eval.errors import DATA_MISSING, DONE, MACHINE, WRONG_INPUT, MachineError, UserError, is_disk_trouble, one_line
from nha_eval.executors import LocalExecutor, died_reason
from nha_eval.fetching import fetch_all
from nha_eval.journal import FINAL
from nha_eval.plan import Cell
from nha_eval.progress import Display, duration
from nha_eval.sharing import Portion, share_out
from nha_eval.store import RunFolder

LOAD_ATTEMPTS = 3  # workers in a row that may die while loading a model
REPORT_EVERY = 15.0  # seconds at least between two drawings of the report
REPORT_SHARE = 10  # and at least this many times as long as the last one took


class _Stopped(Exception):
    """Another thread of the run has ended it."""


@dataclass
class Run:
    """One evaluation into one folder. `executor` and `draw` may be replaced; `draw` takes the folder and leaves the
    report there.
    """

    cells: list[Cell]
    settings: dict[str, Any]  # what spec.yaml holds
    path: Path
    threads: int
    executor: Any = field(default_factory=LocalExecutor)
    draw: Callable[[Path], Any] | None = None
    display: Callable[..., Display] = Display
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)  # model or task -> assets to be fetched first
    fetch: Callable[[list[str]], dict[str, str]] = fetch_all  # gives back what cannot be had, with reasons
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    part: Portion | None = None  # of a run's share: these documents are answered, and no cell is finished
    missing: dict[tuple[str, int | None], str] = field(default_factory=dict)  # (task, length) -> why its data is not there
    refused: dict[str, str] = field(default_factory=dict)  # model -> why it could not be had

    def __post_init__(self) -> None:
        self.draw = self.draw or _write_report
        # The first report comes as soon as there is a cell to show.
        self._drawn = -math.inf
        self._drawing_took = 0.0
        self._undrawn = False
        # One thread at a time writes, draws and shows.
        self._turn = threading.RLock()
        self._stopping = False

    def go(self) -> int:
        """Do all that is left and return the exit code. Raises UserError, MachineError or Interrupted, the
        worker ended first.
        """
        began = time.monotonic()
        with RunFolder(self.path, self.settings) as folder, contextlib.closing(self.executor):
            self.folder = folder
            for cell in self.cells:
                record = folder.journal.read(cell.id)
                if record is not None and record["status"] in FINAL:
                    self.records[cell.id] = record
            todo = [cell for cell in self.cells if cell.id not in self.records]
            if todo:
                environment.record(self.path, self.settings, len(self.cells))
                self._fetch(todo)
                with self.display(self.cells, self.records) as self.shown:
                    if self.records:
                        self.shown.say(f"{self.path}: {len(self.records)} of {len(self.cells)} cells are done already")
                    self._run_all(todo)
                    self._write_tables()
                    if self.part is None:
                        self._refresh_report(force=True)
            else:
                with self.display(self.cells, self.records) as self.shown:
                    environment.record_planned(self.path, len(self.cells))
                    self._write_tables()
                    if folder.tables_newer_than_report():
                        self._refresh_report(force=True)
        return self._conclude(time.monotonic() - began, len(todo))

    def _fetch(self, cells: list[Cell]) -> None:
        """Fetch what these cells need, and note whose assets cannot be had."""
        wanted = [asset for cell in cells for name in (cell.model, cell.task) for asset in self.needs.get(name, ())]
        failures = self.fetch(list(dict.fromkeys(wanted))) if wanted else {}
        for cell in cells:
            for asset in self.needs.get(cell.model, ()):
                if asset in failures:
                    self.refused[cell.model] = failures[asset]
            for asset in self.needs.get(cell.task, ()):
                if asset in failures:
                    self.missing[cell.task, cell.length] = failures[asset]

    def _run_all(self, cells: list[Cell]) -> None:
        """Work through the cells, several models or parts of a model's at a time where the executor has room for it."""
        if self.part is not None:
            done = set(self.records)
            self._answer(replace(self.part, cells=[cell for cell in self.part.cells if cell.id not in done]))
            return
        room = self.executor.room
        if room > 1:
            timed = [cell for cell in cells if cell.kind == "cost"]
            scored = [cell for cell in cells if cell.kind != "cost"]
        else:
            timed, scored = cells, []
        for _, group in groupby(timed, key=lambda cell: cell.model):
            self._run_model(list(group))
        portions = share_out(scored, room)
        left = Counter(portion.share for portion in portions)

        def run(portion: Portion) -> None:
            try:
                if portion.of > 1:
                    self._answer(portion)
            finally:
                with self._turn:
                    left[portion.share] -= 1
                    last = not left[portion.share]
            if last:
                self._run_model(portion.cells)

        if not portions:
            return
        with ThreadPoolExecutor(room) as pool:
            try:
                for done in as_completed([pool.submit(run, portion) for portion in portions]):
                    done.result()
            except BaseException:
                self._stopping = True
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _run_model(self, cells: list[Cell]) -> None:
        """Work through cells of one model, with as many workers as it takes."""
        if self._stopping or cells[0].model in self.refused:
            return
        with contextlib.suppress(_Stopped):
            self._work_through(cells)

    def _answer(self, portion: Portion) -> None:
        """Answer one worker's part of the portion's documents, into the journal. What goes wrong is met again, and told, where
        the cells are run whole."""
        scored = [cell for cell in portion.cells if cell.kind == "score"]
        cells = [cell for cell in scored if (cell.task, cell.length) not in self.missing]
        if self._stopping or not cells or cells[0].model in self.refused:
            return
        with contextlib.suppress(_Stopped), self._worker() as worker:
            if self._load(worker, cells[0])["event"] != "ready":
                return
            for cell in cells:
                with self._turn:
                    self.shown.begin(cell)
                    known = self.folder.journal.read_answers(cell.id)
                part = [portion.part, portion.of]
                worker.send({"do": "cell", "cell": cell.as_dict(), "answers": known, "part": part})
                if self._wait(worker, may_draw=True)["event"] == "died":
                    return

    def _work_through(self, cells: list[Cell]) -> None:
        waiting = self._without_missing(cells)
        deaths, lost = 0, 0
        while waiting:
            with self._worker() as worker:
                ready = self._load(worker, waiting[0])
                if ready["event"] == "died":
                    deaths += 1
                    if deaths == LOAD_ATTEMPTS:
                        raise MachineError(
                            f"the worker for {waiting[0].model} died {deaths} times while loading it: {ready['reason']}"
                        )
                elif ready["event"] == "refused":
                    return
                elif ready["event"] == "oom":
                    for cell in waiting:
                        self._finish(cell, {"status": "oom", "reason": ready["reason"], "rows": []})
                    return
                else:
                    deaths = 0
                    self._check_loaded(waiting, ready)
                    while waiting:
                        cell = waiting.pop(0)
                        ended = self._run_cell(worker, cell, ready, again=lost < LOAD_ATTEMPTS)
                        if ended == "lost":
                            # The machine went, not the cell: a worker elsewhere takes it.
                            waiting.insert(0, cell)
                            lost += 1
                        if ended:
                            break
                        waiting = self._without_missing(waiting)

    def _without_missing(self, cells: list[Cell]) -> list[Cell]:
        """The cells whose data is not known to be missing; the others get that as their result."""
        there = []
        for cell in cells:
            reason = self.missing.get((cell.task, cell.length)) if cell.kind != "cost" else None
            if reason is None:
                there.append(cell)
            else:
                self._finish(cell, {"status": "unavailable", "reason": reason, "rows": []})
        return there

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Any]:
        worker = self.executor.start()
        try:
            yield worker
        finally:
            worker.kill()

    def _load(self, worker: Any, cell: Cell) -> dict[str, Any]:
        """The worker's `ready` event, or `oom` (the weights do not fit), `refused` (the model cannot be had) or `died`
        with a reason.
        """
        with self._turn:
            self.shown.loading(cell.model)
        worker.send(
            {
                "do": "load",
                "model": cell.model_name,
                "device": cell.device,
                "dtype": cell.dtype,
                "threads": self.threads,
            }
        )
        event = self._wait(worker)
        if event["event"] == "ready":
            with self._turn:
                environment.record_device(self.path, cell.model, {key: value for key, value in event.items() if key != "event"})
            return event
        if event["event"] == "died":
            return {
                "event": "oom" if event["oom"] else "died",
                "reason": f"while loading the weights {died_reason(event)}",
            }
        if event.get("kind") == "oom":
            return {"event": "oom", "reason": f"while loading the weights: {event['message']}"}
        self.refused[cell.model] = event["message"]
        return event

    def _check_loaded(self, cells: list[Cell], ready: dict[str, Any]) -> None:
        """Raise UserError for what only the loaded model could tell."""
        model, longest = cells[0].model, ready.get("max_length")
        beyond = next((cell for cell in cells if longest and cell.length and cell.length > longest), None)
        if beyond is not None:
            raise UserError(f"length {beyond.length} ({beyond.what}) is beyond {model}, which takes up to {longest} tokens")
        with self._turn:
            kept = {record.get("weights_hash") for record in self.records.values() if record["cell"]["model"] == model}
        if kept - {None, ready.get("weights_hash")}:
            raise UserError(
                f"the weights or settings of {model} have changed since the cells in {self.path} were measured: choose "
                "another folder with --out, or remove that one"
            )

    def _run_cell(self, worker: Any, cell: Cell, ready: dict[str, Any], again: bool) -> str | None:
        """Have one cell done and stored; "died" when the worker is gone with it, "lost" when its machine is and the cell may
        be tried `again`, None when the worker waits for the next one.
        """
        # Drawing takes a core: while a score is taken it may, while something is timed it must not.
        timed = cell.kind == "cost"
        if timed:
            self._refresh_report()
        with self._turn:
            self.shown.begin(cell)
        with self._turn:
            known = {} if timed else {"answers": self.folder.journal.read_answers(cell.id)}
        worker.send({"do": "cell", "cell": cell.as_dict(), **known})
        started = time.monotonic()
        event = self._wait(worker, may_draw=not timed)
        about = {"weights_hash": ready.get("weights_hash")}
        if event["event"] == "died":
            if again and event.get("lost"):
                return "lost"
            status = "oom" if event["oom"] else "error"
            reason = died_reason(event)
            spent = round(time.monotonic() - started, 3)
            result = {
                "status": status,
                "reason": reason,
                "rows": [],
                "detail": "\n".join(event["tail"]),
                "seconds": spent,
            }
            self._finish(cell, {**result, **about})
            return "died"
        if event["status"] == "unavailable":
            # What could not be had for one window will not be had for the next.
            self.missing[cell.task, cell.length] = event["reason"]
        self._finish(cell, {**{key: value for key, value in event.items() if key not in ("event", "cell")}, **about})
        return None

    def _wait(self, worker: Any, may_draw: bool = False) -> dict[str, Any]:
        """The next event that ends something."""
        while True:
            if self._stopping:
                raise _Stopped
            if may_draw:
                self._refresh_report()
            event = worker.next(timeout=0.5)
            with self._turn:
                self.shown.tick()
                if event is not None and event["event"] == "progress":
                    self.shown.step(event["done"], event["total"])
            if event is None or event["event"] == "progress":
                continue
            if event["event"] == "answers":
                with self._turn:
                    self.folder.journal.note_answers(event["cell"], event["answers"])
                continue
            if event["event"] == "machine":
                raise MachineError(
                    f"{event['message']}; what was finished is kept: give the same command again once this is mended"
                )
            return event

    def _finish(self, cell: Cell, record: dict[str, Any]) -> None:
        with self._turn:
            self._store(cell, record)

    def _store(self, cell: Cell, record: dict[str, Any]) -> None:
        samples = record.pop("samples", None)
        record = {
            **record,
            "cell": cell.as_dict(),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        self.folder.journal.write(cell.id, record, samples)
        # Read back, so that an unbroken run's tables come from the same bytes as a resumed one's.
        self.records[cell.id] = self.folder.journal.read(cell.id) or record
        self._write_tables()
        self._undrawn = True
        self.shown.done(cell, self.records[cell.id])

    def _write_tables(self) -> None:
        self.folder.write_tables(self.cells, self.records)

    def _refresh_report(self, force: bool = False) -> None:
        with self._turn:
            self._redraw(force)

    def _redraw(self, force: bool) -> None:
        due = time.monotonic() - self._drawn >= max(REPORT_EVERY, REPORT_SHARE * self._drawing_took)
        if not force and not (due and self._undrawn):
            return
        began = time.monotonic()
        try:
            self.draw(self.path)
        except Exception as problem:
            if is_disk_trouble(problem):
                raise MachineError(
                    f"cannot write the report: {one_line(problem)}; the cells are kept: free some space, then give the same "
                    "command again"
                ) from problem
            self.shown.warn(f"the report could not be drawn ({one_line(problem)}); the figures are in {self.path}")
        self._drawn = time.monotonic()
        self._drawing_took = self._drawn - began
        self._undrawn = False

    def _conclude(self, seconds: float, done: int) -> int:
        """Say how it ended, and give the exit code."""
        by_status: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if cell.id in self.records:
                by_status.setdefault(self.records[cell.id]["status"], []).append(cell)
        if self.refused and not self.records:
            raise UserError("; ".join(f"model {model} cannot be had: {reason}" for model, reason in self.refused.items()))
        if self.part is not None:
            share = f"part {self.part.part + 1} of {self.part.of} of the documents of {len(self.part.cells)} cells"
            self.shown.say(f"{self.path}: {share} is answered; the run without --share takes the scores")
            return DONE
        counts = ", ".join(f"{len(cells)} {status}" for status, cells in by_status.items())
        again = f"{done} done now in {duration(seconds)}" if done else "nothing was left to do"
        self.shown.say(f"{self.path}: {counts or 'no cells'} ({again}); report: {self.path / 'report.html'}")
        if self.refused:
            for model, reason in self.refused.items():
                self.shown.say(f"model {model} cannot be had: {reason}")
            return WRONG_INPUT
        if failed := by_status.get("error"):
            first = failed[0]
            self.shown.say(
                f"{len(failed)} cells failed, the same command tries them again; the first, {first.what}: "
                f"{self.records[first.id]['reason']}"
            )
            return MACHINE
        if missing := by_status.get("unavailable"):
            tasks = ", ".join(dict.fromkeys(str(cell.task) for cell in missing))
            self.shown.say(
                f"data could not be had for {tasks}: {self.records[missing[0].id]['reason']}; the same command tries again"
            )
            return DATA_MISSING
        return DONE


def _write_report(path: Path) -> None:
    from nha_eval.report import write_report

    write_report(path)
