"""Triton's autotuner for tests on a GPU: two configurations a kernel, where flash-linear-attention offers up to hundreds.

Each configuration is compiled and timed anew for every kernel, dtype and set of sizes: minutes, in which nothing is tested,
as any configuration has to give the same figures. Two are kept, so that the choice between them still runs. They are the
smallest, as those fit where any does: blocks times stages is what shared memory grows with.

The list is cut where the autotuner prunes it and not while it times: the list is part of the key under which Triton keeps
its choices on disk, so a choice among two is never taken for one among all, in a run that counts.
"""

from __future__ import annotations

import math

import pytest

MOST = 2


def size(config) -> tuple[int, int, int]:
    """What a configuration asks of a multiprocessor: product of its blocks times stages, then stages, then warps."""
    blocks = math.prod(value for value in config.kwargs.values() if isinstance(value, int) and value > 0)
    return blocks * config.num_stages, config.num_stages, config.num_warps


@pytest.fixture
def few_configurations(monkeypatch):
    """Inside the test every autotuner of Triton, and those derived from it, tries its MOST smallest configurations."""
    autotuner = pytest.importorskip("triton.runtime.autotuner").Autotuner
    prune = autotuner.prune_configs

    def smallest(self, *arguments, **named):
        return sorted(prune(self, *arguments, **named), key=size)[:MOST]

    monkeypatch.setattr(autotuner, "prune_configs", smallest)
