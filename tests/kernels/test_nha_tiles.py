"""Every tile configuration that can be chosen, on a GPU: of each a shape with keys as wide as values, one with wider keys, and
one with wider values, as far as there are such.

Triton miscompiles some: what `choose_tiles` keeps from is what this has found.
"""

import importlib.util
from dataclasses import replace
from itertools import product

import pytest
import torch
from nha_answers import BOUNDS, check_on_a_gpu
from nha_cases import Case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
]
WIDTHS, GROUPS, SLOTS = (128, 64, 256, 16, 32, 96), (4, 1, 2, 3, 8), (64, 17, 16, 65, 200)
NARROW, WIDE = 40, 300


def cases() -> list[tuple[torch.dtype, Case]]:
    """(dtype, case): one for each configuration and kind of shape."""
    from kernels.nha.triton.plan import choose_tiles

    found = {}
    for dtype, key_dim, value_dim, group, slots, turns, wide in product(
        BOUNDS, WIDTHS, WIDTHS, GROUPS, SLOTS, (False, True), (False, True)
    ):
        tiles = choose_tiles(group, slots, key_dim, value_dim, dtype, turns, wide)
        # Keys and values of unlike widths take the same tiles at any window, and are met at a wide one.
        unlike = (key_dim > value_dim) - (key_dim < value_dim)
        kind = (dtype, replace(tiles, KP=0, VP=0), unlike, wide or bool(unlike))
        case = Case(
            time=300, window=WIDE if wide or unlike else NARROW, slots=slots, group=group, empty_slots="mask", slot_delay=None,
            slot_bias=group == 2, rotary=turns, feature_map=not turns, layout="batch", strength=1.0, key_dim=key_dim,
            value_dim=value_dim,
        )  # fmt: skip
        found.setdefault(kind, (dtype, case))
    return list(found.values())


CASES = cases() if importlib.util.find_spec("triton") is not None else []


@pytest.mark.parametrize(
    ("dtype", "case"), CASES, ids=lambda x: str(x)[6:] if isinstance(x, torch.dtype) else f"{x}-K{x.key_dim}-V{x.value_dim}"
)
def test_tiles(dtype, case):
    check_on_a_gpu(case, dtype, seed=0)
