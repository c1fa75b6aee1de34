"""What is measured: the cases of a run, made from names, lengths and windows that were checked first.

A case is one implementation on one shape at one length and window, in one phase:

    forward             without gradients; on a GPU up to GRAPH_LENGTH also as a CUDA graph, which has no launch overhead, and
                        so packed
    forward+backward    both together, the gradients set to None before
    ... packed          the same tokens as PACKED sequences of unlike lengths, told apart by cu_seqlens
    decode              one token a sequence from the state that `length` tokens left

    plan(shapes=("A",), phases=("forward",), lengths=(2048,), device_type="cuda")
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nha_eval.bench import implementations
from nha_eval.bench.shapes import SHAPES, Shape
from nha_eval.errors import UserError, nearest

PHASES = ("forward", "forward+backward", "forward packed", "forward+backward packed", "decode")
WINDOW = 64
PACKED = 16  # sequences
GRAPH_LENGTH = 32768


@dataclass(frozen=True)
class Defaults:
    """What is measured on one kind of device unless told otherwise."""

    lengths: tuple[int, ...]
    train_lengths: tuple[int, ...]
    wide: tuple[int, int]  # (window, length), besides the usual window at every length
    one_length: int  # of packed and decode
    decode_batches: tuple[int, ...]


DEFAULTS = {
    "cuda": Defaults((2048, 4096, 8192, 32768, 131072), (2048, 4096, 8192, 32768), (1024, 32768), 32768, (1, 64)),
    "cpu": Defaults((256, 512), (256, 512), (256, 512), 512, (1, 8)),
}
QUICK = {"shapes": ("A",), "lengths": (2048, 8192, 32768)}


@dataclass(frozen=True)
class Case:
    """One point; `window` is None for full attention and for implementations without one; `graphs` holds the ways in which
    it is timed, as a CUDA graph or not.
    """

    implementation: str
    phase: str
    shape: Shape
    batch: int
    length: int
    window: int | None
    graphs: tuple[bool, ...] = (False,)

    @property
    def backward(self) -> bool:
        return self.phase.startswith("forward+backward")

    @property
    def packed(self) -> bool:
        return self.phase.endswith("packed")

    @property
    def sequences(self) -> tuple[int, ...]:
        """Lengths of the sequences: `batch` equal ones, or as many tokens packed."""
        return packed_lengths(self.batch * self.length) if self.packed else (self.length,) * self.batch

    @property
    def window_text(self) -> str:
        """As the table writes it: an integer, `full`, or `none`."""
        kind = implementations.find(self.implementation).WINDOWS
        return str(self.window) if kind == "sliding" else kind

    def at(self, length: int) -> Case:
        """The same at another length."""
        return replace(self, length=length)


def packed_lengths(tokens: int, count: int = PACKED) -> tuple[int, ...]:
    """`count` unlike sequence lengths, each at least 1, that sum to `tokens` (>= count); always the same ones."""
    draw = random.Random(0)
    weights = [draw.lognormvariate(0.0, 1.0) for _ in range(count)]
    bounds = [round((tokens - count) * sum(weights[: index + 1]) / sum(weights)) for index in range(count)]
    return tuple(1 + after - before for before, after in zip([0, *bounds], bounds, strict=False))


def plan(
    *,
    device_type: str,
    shapes: Sequence[str] | None = None,
    lengths: Sequence[int] | None = None,
    windows: Sequence[int] | None = None,
    phases: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    quick: bool = False,
) -> list[Case]:
    """The cases in the order in which they are measured. What is None takes the device's defaults; given lengths are
    those of every phase, packed and decode taking the longest. UserError for an unknown name, or when nothing is left.
    """
    defaults = DEFAULTS[device_type]
    if quick:
        shapes, lengths = shapes or QUICK["shapes"], lengths or (QUICK["lengths"] if device_type == "cuda" else None)
    for what, given, known in (
        ("shape", shapes, SHAPES),
        ("phase", phases, PHASES),
        ("implementation", only, implementations.names()),
    ):
        for name in given or ():
            if name not in known:
                raise UserError(f"no such {what}: {name!r}; {nearest(name, known, what=f'{what}s')}")
    cases = []
    for shape in (SHAPES[name] for name in shapes or ("A", "B")):
        for phase in phases or PHASES:
            cases += _phase(phase, shape, defaults, lengths, windows, only or implementations.names(), device_type)
    if not cases:
        raise UserError(f"nothing to measure: {', '.join(only or ())} cannot do {', '.join(phases or ())}")
    return list(dict.fromkeys(cases))


def _phase(phase, shape, defaults, lengths, windows, names, device_type) -> list[Case]:
    one = phase == "decode" or phase.endswith("packed")
    usual = defaults.train_lengths if phase == "forward+backward" else defaults.lengths
    at = (max(lengths) if lengths else defaults.one_length,) if one else lengths or usual
    batches = defaults.decode_batches if phase == "decode" else (shape.batch,)
    cases = []
    for length in at:
        for batch in batches:
            for name in names:
                module = implementations.find(name)
                if phase not in module.PHASES:
                    continue
                wide = [defaults.wide[0]] if length == defaults.wide[1] and not phase.endswith("packed") else []
                own = [None] if module.WINDOWS != "sliding" else windows or [WINDOW, *wide]
                graphs = (False,)
                if device_type == "cuda" and phase == "decode":
                    graphs = (True,)
                elif device_type == "cuda" and phase in ("forward", "forward packed") and length <= GRAPH_LENGTH:
                    graphs = (False, True)
                cases += [Case(name, phase, shape, batch, length, window, graphs) for window in own]
    return cases
