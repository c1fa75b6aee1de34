"""Where workers run. An executor starts workers; a worker takes requests and gives events. Here: a process on this
machine.

Events are dicts with a key "event": ready, progress, answers, result, refused (the model cannot be had), machine (the machine
failed) come from the worker itself; died (with "returncode", "oom", "tail") is the executor's word when it is gone.
With "lost" it was its machine that went, not the worker by itself. Another executor needs `room`, `start()`, `close()` and the
methods of `LocalWorker`.
"""

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

TAIL_LINES = 40


class LocalExecutor:
    """Workers as child processes, `room` of them at a time; each sees one of `gpus`, numbers of this machine's, if given,
    in turns, so that more workers than GPUs share them."""

    def __init__(
        self,
        command: list[str] | None = None,
        environment: dict[str, str] | None = None,
        room: int = 1,
        gpus: list[str] | None = None,
    ):
        self.command = command or [sys.executable, "-m", "nha_eval.worker"]
        self.environment = {**os.environ, **(environment or {})}
        self.room = room
        self._gpus = itertools.cycle(gpus) if gpus else None
        self._lock = threading.Lock()

    def start(self) -> "LocalWorker":
        with self._lock:
            gpu = {} if self._gpus is None else {"CUDA_VISIBLE_DEVICES": next(self._gpus)}
        return LocalWorker(self.command, self.environment | gpu)

    def close(self) -> None:
        """What a run ends with, its workers ended before. Nothing else is held here."""


class LocalWorker:
    """A child process that speaks JSON lines; its stderr is kept for the reason it dies with."""

    def __init__(self, command: list[str], environment: dict[str, str]):
        self._oom_kills = _oom_kills()
        # A session of its own: a Ctrl-C in the terminal reaches the runner alone, which ends the worker and all it started.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._err_reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._err_reader.start()
        threading.Thread(target=self._read_stdout, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, request: dict[str, Any]) -> None:
        """Hand over a request; a worker that is gone says so through its `died` event."""
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def next(self, timeout: float) -> dict[str, Any] | None:
        """The next event, or None after `timeout` seconds without one."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def kill(self) -> None:
        """End it now, with every process that it started. What it had finished has been handed over already."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError, ValueError):
                if pipe is self._process.stdin:
                    pipe.close()

    def _read_stdout(self) -> None:
        for line in self._process.stdout:
            # Whatever is not an event (a native library's chatter) belongs to the log, not to the protocol.
            try:
                event = json.loads(line)
                event["event"]
            except (ValueError, KeyError, TypeError):
                self._tail.append(line.decode(errors="replace").rstrip())
                continue
            self._events.put(event)
        returncode = self._process.wait()
        self._err_reader.join(timeout=1)
        killed = returncode == -signal.SIGKILL and _oom_kills() > self._oom_kills
        self._events.put({"event": "died", "returncode": returncode, "oom": killed, "tail": list(self._tail)})

    def _read_stderr(self) -> None:
        for line in self._process.stderr:
            # A progress bar's carriage returns would make one endless line.
            self._tail.append(line.decode(errors="replace").rstrip().rsplit("\r", 1)[-1][:500])


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory, on this machine or in this container; 0 where it
    does not say.
    """
    count = 0
    with contextlib.suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text().strip().splitlines()[-1].rsplit(":", 1)[-1].lstrip("/")
        sources = (
            Path("/proc/vmstat"),
            Path("/sys/fs/cgroup") / group / "memory.events",
            Path("/sys/fs/cgroup/memory.events"),
        )
        for source in sources:
            with contextlib.suppress(OSError):
                for line in source.read_text().splitlines():
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        count += int(value)
    return count


def died_reason(event: dict[str, Any]) -> str:
    """One line on why a worker ended, for people."""
    code = event["returncode"]
    if event["oom"]:
        return "the system ended the worker: out of memory"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"the worker was ended by {signal.Signals(-code).name}"
        return f"the worker was ended by signal {-code}"
    last = next((line for line in reversed(event["tail"]) if line.strip()), "")
    return f"the worker ended with code {code}" + (f": {last.strip()}" if last else "")
