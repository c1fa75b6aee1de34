"""What a model costs: time and memory of prefill and of decoding, at one length, batch and window.

Prefill is the whole prompt in one call that asks for the last position's logits alone, as generation does it. Decode is
one greedy token at that context, continued from a prefilled cache. The first call is reported apart (cold start); then
warm-up until two calls in a row agree, then the repeats, of which the median and the quartiles are kept. Peak memory is
the process's resident set (CPU) or the allocator's (GPU) over the timed region, weights included; on a CPU the kernel's
high-water mark is reset first where it lets us, else a thread samples.

    meter = CostMeter(loaded.model, max_length=loaded.max_length)
    meter.measure("prefill", length=1024, batch=1, repeats=5, decode_tokens=16, seconds=20, seed=0)
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from models.cache import CACHE_NAME
from nha_eval.peak_memory import PeakMemory
from nha_eval.warming import warm_times


class CostMeter:
    """Measures one loaded model. Keeps the last prefilled cache, so that decoding at the same point need not fill it
    again.
    """

    def __init__(self, model: torch.nn.Module, *, max_length: int | None = None):
        self.model = model
        self.device = next(model.parameters()).device
        self.max_length = max_length
        self._filled: tuple[Any, Any, torch.Tensor] | None = None

    def forget(self) -> None:
        """Drop the kept cache; to be called when the model's windows change."""
        self._filled = None

    @torch.inference_mode()
    def measure(
        self,
        phase: str,
        *,
        length: int,
        batch: int,
        repeats: int,
        decode_tokens: int,
        seconds: float,
        seed: int,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Any]:
        """One row of costs.csv (latencies in ms, memory in MB of 2**20 bytes, state in bytes).

        `seconds` bounds the whole cell, warm-up included, but three repeats are always made. Raises ValueError for an
        unknown phase or a length beyond the model's, and lets MemoryError and torch's out-of-memory errors through.
        """
        if phase not in ("prefill", "decode"):
            raise ValueError(f"phase {phase!r}: wanted is prefill or decode")
        if self.max_length is not None and length > self.max_length:
            raise ValueError(f"length {length} is beyond the model's {self.max_length} tokens: give a shorter one")
        point = (length, batch, seed)
        if phase == "prefill":
            return self._prefill(point, repeats, seconds, on_progress)
        return self._decode(point, decode_tokens, seconds, on_progress)

    def _prefill(self, point: tuple[int, int, int], repeats: int, seconds: float, on_progress: Callable) -> dict[str, Any]:
        length, batch, _ = point
        ids = self._tokens(point)
        self._filled = None

        def call() -> None:
            # The old cache goes first: two at once would show in the peak.
            self._filled = None
            output = self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
            self._filled = (point, getattr(output, CACHE_NAME), output.logits[:, -1].argmax(-1))

        with PeakMemory(self.device) as peak:
            cold, times = self._time(call, repeats, seconds, on_progress)
        return self._row(cold, times, batch * length, peak.mebibytes, self._filled[1].state_bytes())

    def _decode(self, point: tuple[int, int, int], tokens: int, seconds: float, on_progress: Callable) -> dict[str, Any]:
        _, batch, _ = point
        if self._filled is None or self._filled[0] != point:
            self._filled = None
            output = self.model(input_ids=self._tokens(point), use_cache=True, logits_to_keep=1)
            self._filled = (point, getattr(output, CACHE_NAME), output.logits[:, -1].argmax(-1))
            del output
        _, cache, token = self._filled
        self._filled = None
        # The context at which the row is filed: before the timed tokens make a growing cache longer.
        held = cache.state_bytes()

        def call() -> None:
            nonlocal token
            output = self.model(input_ids=token[:, None], **{CACHE_NAME: cache}, use_cache=True, logits_to_keep=1)
            token = output.logits[:, -1].argmax(-1)

        with PeakMemory(self.device) as peak:
            cold, times = self._time(call, tokens, seconds, on_progress)
        return self._row(cold, times, batch, peak.mebibytes, held)

    def _tokens(self, point: tuple[int, int, int]) -> torch.Tensor:
        length, batch, seed = point
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.model.config.vocab_size, (batch, length), generator=generator).to(self.device)

    def _time(self, call: Callable[[], None], repeats: int, seconds: float, on_progress: Callable) -> tuple[float, list[float]]:
        def timed() -> float:
            self._synchronise()
            start = time.perf_counter()
            call()
            self._synchronise()
            return time.perf_counter() - start

        began = time.monotonic()
        cold = timed()
        times = warm_times(timed, cold, repeats=repeats, seconds=seconds, began=began, on_progress=on_progress)
        return cold, times

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _row(self, cold: float, times: list[float], tokens: int, mebibytes: float, held: int) -> dict[str, Any]:
        median = statistics.median(times)
        low, _, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else (median,) * 3
        return {
            "latency_ms": round(1e3 * median, 4),
            "latency_ms_p25": round(1e3 * low, 4),
            "latency_ms_p75": round(1e3 * high, 4),
            "repeats": len(times),
            "cold_start_ms": round(1e3 * cold, 4),
            "tokens_per_s": round(tokens / median, 2),
            "peak_memory_mb": round(mebibytes, 1),
            "state_bytes": held,
        }
