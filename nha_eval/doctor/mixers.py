"""Every mixer that exists as a file, tried on this machine: against its definition, and against itself given otherwise.

One mixer is small and random; its weights are of a size (0.1) at which rounding stays what it is and no check can pass by
being mostly residual. Five checks, each the relative RMS of a difference:

    kernel      the mixer's output on the backend that `auto` takes here, against the same weights in fp64 on the CPU with
                every operator by its definition (`kernels.standing`; softmax over everything by torch's plain form)
                (a scale that the mixer's own norm takes out again, as in `gla`, is no error of the mixer)
    gradients   the same of the gradients of its input and of every weight, the worst of them
    split       logits of a whole model in one pass, against pieces that go on from its cache
    steps       the same, token by token
    batch       eight rows of unlike lengths padded on either side, against each row alone

from nha_eval.doctor.mixers import examine_mixer; examine_mixer("nha", torch.device("cpu")).verdict
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.standing import auto_backend
from models import NHAConfig, NHAForCausalLM
from models.mixers import mixer_class
from models.presets import SIZES
from nha_eval.errors import one_line

# Two of the chunked forms' chunks and a part of a third.
TIME = 150
STEPS = 80
PIECES = (1, 64, 20, 65)
LENGTHS = (64, 1, 100, 17, 90, 2, 65, 33)
# Narrower and wider than a chunk, beside full attention and, of mixers that have it, no window at all. (Over a window of one
# token no gradient reaches queries and keys, and there is nothing to compare.)
WINDOWS = (7, 80)
# Relative RMS of outputs and of gradients. fla's kernels multiply fp32 as tf32 (10 bits); bf16 has 8.
EXACT, TF32, BF16 = (1e-5, 1e-4), (5e-3, 2e-2), (2e-2, 4e-2)


@dataclass(frozen=True)
class Finding:
    """One check at one window and dtype. `refused`: what it calls says that it cannot be had here (`reason` why)."""

    check: str
    status: str  # ok | failed | refused
    bound: float
    dtype: str
    window: str  # tokens, "full", or "none" for a mixer without one
    error: float | None = None
    reason: str | None = None

    def words(self) -> str:
        """What was found, in a line."""
        at = "" if self.window == "none" else f", window {self.window}"
        found = self.reason or f"error {self.error:.1e}, bound {self.bound:g}"
        return f"{self.check} ({self.dtype}{at}): {found}"


@dataclass(frozen=True)
class Result:
    """A mixer's findings on a device."""

    mixer: str
    backend: str
    seconds: float
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """`failed` where any check did, else `refused` where any was, else `passed`."""
        found = {finding.status for finding in self.findings}
        return "failed" if "failed" in found else "refused" if "refused" in found else "passed"

    def worst(self) -> dict[str, Finding]:
        """Of each check the finding that is furthest from well."""
        worst: dict[str, Finding] = {}
        for finding in self.findings:
            held = worst.get(finding.check)
            if held is None or _badness(finding) > _badness(held):
                worst[finding.check] = finding
        return worst

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the worst finding of each check."""
        checks = {name: {k: v for k, v in asdict(f).items() if k != "check"} for name, f in self.worst().items()}
        return {"verdict": self.verdict, "backend": self.backend, "seconds": round(self.seconds, 2), "checks": checks}


def _badness(finding: Finding) -> tuple[int, float]:
    share = float("inf") if finding.error is None else finding.error / finding.bound
    return {"ok": 0, "refused": 1, "failed": 2}[finding.status], share


def examine_mixer(name: str, device: torch.device) -> Result:
    """All checks of one mixer on `device`, at each kind of window that it has. ValueError for an unknown mixer."""
    began = time.monotonic()
    findings, backends = [], set()
    # A convolution's own tf32 would hide what the operators do.
    with _one_thread(device), torch.backends.cudnn.flags(allow_tf32=False):
        for window in _windows(name):
            backend = _model(name, window, layers=1).to(device).backend()
            backends.add(backend)
            findings += _at_window(name, window, device, backend)
    return Result(name, "+".join(sorted(backends)), time.monotonic() - began, findings)


def _windows(name: str) -> list[int | None]:
    mixer = mixer_class(name)
    if not mixer.has_window:
        return [None]
    return [*([0] if mixer.smallest_window == 0 else []), *WINDOWS, None]


def _at_window(name: str, window: int | None, device: torch.device, backend: str) -> Iterator[Finding]:
    label = ("full" if window is None else str(window)) if mixer_class(name).has_window else "none"
    single = TF32 if backend == "fla" else EXACT

    def finding(check: str, dtype: str, bound: float, measure: Callable[[], float]) -> Finding:
        try:
            error = measure()
        except Exception as problem:
            # fla raises this where it knows that its kernel would give wrong gradients.
            refused = isinstance(problem, RuntimeError) and "tilelang" in str(problem)
            return Finding(check, "refused" if refused else "failed", bound, dtype, label, None, one_line(problem))
        # A NaN is over any bound.
        return Finding(check, "ok" if error <= bound else "failed", bound, dtype, label, error)

    for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
        bounds = BF16 if dtype == torch.bfloat16 else single
        pair = _Pair(name, window, device, dtype)
        for check, bound, measure in zip(("kernel", "gradients"), bounds, (pair.output, pair.gradients), strict=True):
            yield finding(check, str(dtype)[6:], bound, measure)
    model = _model(name, window, layers=2).to(device)
    for check, measure in (("split", _split), ("steps", _steps), ("batch", _batch)):
        yield finding(check, "float32", TF32[1] if backend == "fla" else EXACT[0], lambda measure=measure: measure(model))


class _Pair:
    """One mixer on its device, and its definition: what each gives for the same input."""

    def __init__(self, name: str, window: int | None, device: torch.device, dtype: torch.dtype):
        self.tried = _model(name, window, layers=1).to(device=device, dtype=dtype)
        self.exact = copy.deepcopy(self.tried).to("cpu", torch.float64)
        generator = torch.Generator().manual_seed(1)
        shape = (2, TIME, self.tried.config.hidden_size)
        self.hidden, self.weight = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))

    def output(self) -> float:
        with torch.no_grad():
            return relative_error(self._run(self.tried)["output"], self._defined()["output"])

    def gradients(self) -> float:
        found, wanted = self._run(self.tried), self._defined()
        return _largest(relative_error(found[name], wanted[name]) for name in wanted if name != "output")

    def _defined(self) -> dict[str, Tensor]:
        with auto_backend("recurrent"), sdpa_kernel(SDPBackend.MATH):
            return self._run(self.exact)

    def _run(self, model: NHAForCausalLM) -> dict[str, Tensor]:
        """The mixer's output and, where they are wanted, the gradients of its input and weights, by name."""
        like = next(model.parameters())
        hidden = self.hidden.to(like, copy=True).requires_grad_(torch.is_grad_enabled())
        mixer, seen = model.decoder_layers[0].self_attn, []
        hook = mixer.register_forward_hook(lambda module, arguments, output: seen.append(output))
        try:
            model.base_model(inputs_embeds=hidden, use_cache=False)
        finally:
            hook.remove()
        if not torch.is_grad_enabled():
            return {"output": seen[0]}
        (seen[0] * self.weight.to(like)).sum().backward()
        learnt = {name: p.grad for name, p in mixer.named_parameters() if p.grad is not None}
        model.zero_grad()
        return {"output": seen[0].detach(), "input": hidden.grad, **learnt}


@torch.no_grad()
def _split(model: NHAForCausalLM) -> float:
    ids, cache, start, pieces = _ids(model, 2, TIME), model.new_cache(), 0, []
    for length in PIECES:
        pieces.append(model(ids[:, start : start + length], cache=cache).logits)
        start += length
    return relative_error(torch.cat(pieces, 1), model(ids).logits)


@torch.no_grad()
def _steps(model: NHAForCausalLM) -> float:
    ids, cache = _ids(model, 2, STEPS), model.new_cache()
    steps = [model(ids[:, place : place + 1], cache=cache).logits for place in range(STEPS)]
    return relative_error(torch.cat(steps, 1), model(ids).logits)


@torch.no_grad()
def _batch(model: NHAForCausalLM) -> float:
    """The worst row on either side."""
    longest, errors = max(LENGTHS), []
    rows = [_ids(model, 1, length, seed=length)[0] for length in LENGTHS]
    alone = [model(row[None]).logits[0] for row in rows]
    for side in ("left", "right"):
        ids = rows[0].new_zeros(len(rows), longest)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            place = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
            ids[number, place], mask[number, place] = row, 1
        logits = model(ids, attention_mask=mask).logits
        errors += [relative_error(logits[n][mask[n].bool()], wanted) for n, wanted in enumerate(alone)]
    return _largest(errors)


def _ids(model: NHAForCausalLM, rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size, (rows, length), generator=generator).to(next(model.parameters()).device)


def _model(name: str, window: int | None, layers: int) -> NHAForCausalLM:
    """A model of that mixer alone, two query heads to a key-value head, in eval mode, always the same."""
    own = {"mixers": name, "windows": window, "num_hidden_layers": layers, "num_key_value_heads": 2, "initializer_range": 0.1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NHAForCausalLM(NHAConfig(**(SIZES["tiny"] | own))).eval()


class _one_thread:
    """Small products on a CPU: on a busy machine threads that wait for each other take longer than one alone."""

    def __init__(self, device: torch.device):
        self.wanted = device.type == "cpu"

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        if self.wanted:
            torch.set_num_threads(1)

    def __exit__(self, *problem: object) -> None:
        torch.set_num_threads(self.before)


def _largest(errors: Iterable[float]) -> float:
    """The largest; NaN where one is, which Python's own `max` may pass over."""
    return float(torch.tensor(list(errors), dtype=torch.float64).max())


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """RMS of the difference over RMS of what is wanted, in fp64."""
    wanted = wanted.detach().double().cpu()
    return float((found.detach().double().cpu() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
