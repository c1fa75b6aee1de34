"""Cases of the NHA operator for every backend's tests: a grid sampled so that each pair of settings occurs together.

Error metric: RMS(difference) / RMS(reference), one threshold a dtype, every output and every gradient named.
"""

from dataclasses import dataclass

import torch
from allpairspy import AllPairs

AXES = {
    "time": [300, 1, 2, 63, 64, 65],
    "window": [64, 0, 1, 7, 100, "T", None],
    "slots": [64, 1, 16, 17],
    "group": [1, 2, 3, 4],
    "empty_slots": ["mask", "sink"],
    "slot_delay": [None, 0],
    "slot_bias": [False, True],
    "rotary": [False, True],
    "feature_map": [False, True],
    "layout": ["batch", "packed"],
    "strength": [0.1, 1.0, 30.0],
}


@dataclass(frozen=True)
class Case:
    time: int
    window: int | str | None
    slots: int
    group: int
    empty_slots: str
    slot_delay: int | None
    slot_bias: bool
    rotary: bool
    feature_map: bool
    layout: str
    strength: float
    key_dim: int = 16
    value_dim: int = 24
    heads: int = 2

    def __str__(self):
        parts = [
            f"T{self.time}",
            f"w{self.window}",
            f"M{self.slots}",
            f"G{self.group}",
            self.empty_slots,
            f"d{self.slot_delay}",
        ]
        parts += [name for name in ("slot_bias", "rotary", "feature_map") if getattr(self, name)]
        return "-".join([*parts, self.layout, f"g{self.strength}"])

    @property
    def width(self) -> int | None:
        return self.time if self.window == "T" else self.window

    def inputs(self, dtype=torch.float64, seed=0) -> tuple[dict, dict]:
        """(tensors that carry gradients, settings). Decays run from 0 to -strength a step, most of them slow."""
        gen = torch.Generator().manual_seed(seed)
        rand = lambda *shape: torch.rand(*shape, generator=gen, dtype=torch.float64).to(dtype)  # noqa: E731
        randn = lambda *shape: torch.randn(*shape, generator=gen, dtype=torch.float64).to(dtype)  # noqa: E731
        batch = 1 if self.layout == "packed" else 2
        queries = self.heads * self.group
        x = {
            "q": randn(batch, self.time, queries, self.key_dim),
            "k": randn(batch, self.time, self.heads, self.key_dim),
            "v": randn(batch, self.time, self.heads, self.value_dim),
            "g": -(rand(batch, self.time, self.heads, self.slots) ** 4) * self.strength,
        }
        settings = {"window": self.width, "empty_slots": self.empty_slots, "slot_delay": self.slot_delay}
        if self.slot_bias:
            x["slot_bias"] = randn(queries)
        if self.feature_map:
            x["slot_q"], x["slot_k"] = randn(*x["q"].shape), randn(*x["k"].shape)
        if self.rotary:
            angles = rand(self.time, self.key_dim // 2) * 6
            settings["rotary"] = (angles.cos(), angles.sin())
        if self.layout == "packed":
            cuts = sorted(torch.randint(0, self.time + 1, (2,), generator=gen).tolist())
            settings["cu_seqlens"] = torch.tensor([0, *cuts, self.time], dtype=torch.int32)
        return x, settings


def pairwise_cases(**axes) -> list[Case]:
    """Cases such that any two values of any two axes meet in at least one; `axes` replaces axes of the default grid."""
    grid = AXES | axes
    return [Case(**dict(zip(grid, row, strict=True))) for row in AllPairs(list(grid.values()))]


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """RMS(found - wanted) / RMS(wanted); infinities must agree exactly, NaN never passes."""
    assert found.shape == wanted.shape
    found, wanted = found.double(), wanted.double()
    infinite = wanted.isinf()
    assert torch.equal(found[infinite], wanted[infinite])
    found, wanted = found[~infinite], wanted[~infinite]
    if not wanted.numel():
        return 0.0
    difference, size = (found - wanted).square().mean().sqrt(), wanted.square().mean().sqrt()
    return (difference if size == 0 else difference / size).item()


def assert_close(found: dict, wanted: dict, bound: float):
    """Every named tensor within `bound`; the message lists all that are not."""
    assert found.keys() == wanted.keys()
    errors = {name: relative_error(found[name], wanted[name]) for name in wanted}
    wrong = {name: error for name, error in errors.items() if not error <= bound}
    assert not wrong, f"over {bound}: {wrong}"


def over(errors: dict[str, float], bound: float) -> dict[str, float]:
    """Those of the errors that are not within the bound; a NaN never is."""
    return {name: error for name, error in errors.items() if not error <= bound}
