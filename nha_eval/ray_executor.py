"""Workers on a Ray cluster: each is an actor that asks for the GPU or the cores it needs, and holds a worker as elsewhere.

Ray places the actors and notices when a machine is gone; what a worker is told and tells is the same as anywhere. Every
machine needs this package at the same version, and the models and data at the same paths or in reach of its own.

    RayExecutor(address="auto", cores=4, gpus=1)
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any

from nha_eval.errors import MachineError, UserError, one_line
from nha_eval.executors import LocalExecutor


class RayExecutor:
    """As many workers at a time as the cluster has room for, or as `most` says.

    address: of a running cluster ("auto": the one of this machine); None starts one here. cores, gpus: for each worker.
    Raises UserError where Ray is not installed or the address does not answer, MachineError where no worker would ever fit.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cores: int = 1,
        gpus: int = 0,
        most: int | None = None,
        environment: dict[str, str] | None = None,
        command: list[str] | None = None,
    ):
        self.address, self.cores, self.gpus, self.most = address, cores, gpus, most
        self.environment, self.command = environment or {}, command
        self._ray: Any = None
        self._joined = False

    @property
    def room(self) -> int:
        """How many workers may run at a time."""
        resources = self._connected().cluster_resources()
        fitting = math.floor(resources.get("CPU", 0) / self.cores)
        if self.gpus:
            fitting = min(fitting, math.floor(resources.get("GPU", 0) / self.gpus))
        if fitting < 1:
            wanted = f"{self.cores} cores" + (f" and {self.gpus} GPU" if self.gpus else "")
            there = f"{resources.get('CPU', 0):.0f} cores and {resources.get('GPU', 0):.0f} GPUs"
            raise MachineError(f"no worker fits the Ray cluster: each wants {wanted}, and it has {there}; give fewer --threads")
        return fitting if self.most is None else min(fitting, self.most)

    def start(self) -> RayWorker:
        ray = self._connected()
        actor = ray.remote(num_cpus=self.cores, num_gpus=self.gpus, max_concurrency=2, max_restarts=0)(Host)
        return RayWorker(ray, actor.remote(self.command, self.environment))

    def _connected(self):
        if self._ray is None:
            try:
                import ray
            except ImportError as problem:
                raise UserError(
                    "the executor 'ray' wants the package ray, which is not installed: pip install .[ray]"
                ) from problem
            if not ray.is_initialized():
                quiet = {"include_dashboard": False} if self.address is None else {}
                try:
                    ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **quiet)
                except (ConnectionError, ValueError, RuntimeError) as problem:
                    raise UserError(
                        f"no Ray cluster answers at {self.address!r}: {one_line(problem)}; give --address of a running one, or "
                        "leave it out to start one here"
                    ) from problem
                self._joined = True
            self._ray = ray
        return self._ray

    def close(self) -> None:
        """Leaves the cluster, which ends one that was started here. One that the process was in before stays."""
        if self._joined:
            self._ray.shutdown()
        self._ray, self._joined = None, False


class Host:
    """The actor: a worker of its machine, told and listened to from afar."""

    def __init__(self, command: list[str] | None, environment: dict[str, str]):
        self.worker = LocalExecutor(command, environment).start()

    def send(self, request: dict[str, Any]) -> None:
        self.worker.send(request)

    def next(self, timeout: float) -> dict[str, Any] | None:
        return self.worker.next(timeout)

    def pid(self) -> int:
        """Of the process that computes."""
        return self.worker.pid

    def end(self) -> None:
        self.worker.kill()


class RayWorker:
    """What the runner holds of a worker elsewhere."""

    def __init__(self, ray: Any, actor: Any):
        self._ray, self._actor = ray, actor
        self._asked: Any = None

    def send(self, request: dict[str, Any]) -> None:
        """Hand over a request; a worker that is gone says so through its `died` event."""
        self._actor.send.remote(request)

    def next(self, timeout: float) -> dict[str, Any] | None:
        """The next event, or None after `timeout` seconds without one; `died`, and "lost", when the machine is gone."""
        # An answer that is late is not asked for twice: it may hold an event.
        self._asked = self._asked or self._actor.next.remote(timeout)
        ready, _ = self._ray.wait([self._asked], timeout=timeout + 1)
        if not ready:
            return None
        asked, self._asked = self._asked, None
        try:
            return self._ray.get(asked)
        except self._ray.exceptions.RayError as problem:
            # Ray's own watch over memory ends what takes too much: that would happen again.
            full = type(problem).__name__ == "OutOfMemoryError"
            return {"event": "died", "returncode": 1, "oom": full, "lost": not full, "tail": [one_line(problem)]}

    def kill(self) -> None:
        """End it now, with every process that it started."""
        with contextlib.suppress(Exception):
            self._ray.get(self._actor.end.remote(), timeout=5)
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor)


def carried(environment: dict[str, str]) -> dict[str, str]:
    """The variables that a worker elsewhere needs of this process, besides its own."""
    names = ("NHA_EVAL_CACHE", "HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN")
    return {**{name: os.environ[name] for name in names if name in os.environ}, **environment}
