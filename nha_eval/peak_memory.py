"""The most memory that a piece of work had in use: the allocator's on a GPU, the process's resident set on a CPU, whose mark is
reset first where the system lets us; else a thread samples.

    with PeakMemory(torch.device("cpu")) as peak: ...
    peak.mebibytes
"""

import contextlib
import ctypes
import gc
import threading
from pathlib import Path

import psutil
import torch


class PeakMemory:
    """The most memory in use between entering and leaving; `.mebibytes` afterwards."""

    def __init__(self, device: torch.device):
        self.device = device
        self.mebibytes = 0.0

    def __enter__(self) -> "PeakMemory":
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        _give_freed_memory_back()
        self._sampler = None if _reset_high_water_mark() else _Sampler()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
        elif self._sampler is not None:
            peak = self._sampler.stop()
        else:
            peak = _high_water_mark()
        self.mebibytes = peak / 2**20


def _give_freed_memory_back() -> None:
    # glibc keeps what was freed, and the cell before would show in this one's peak.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _high_water_mark() <= 1.05 * psutil.Process().memory_info().rss + 2**20
    except (OSError, ValueError, StopIteration):
        return False


def _high_water_mark() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


class _Sampler:
    """Peak resident set by looking every few milliseconds; for systems whose own mark cannot be reset."""

    def __init__(self, interval: float = 0.005):
        self._process = psutil.Process()
        self._interval = interval
        self._peak = self._process.memory_info().rss
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return max(self._peak, self._process.memory_info().rss)
