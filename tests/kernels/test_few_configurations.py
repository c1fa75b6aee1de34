"""The fixture that spares GPU tests the autotuner, without a GPU: on autotuners whose kernel notes what it is launched with."""

import pytest

autotuner = pytest.importorskip("triton.runtime.autotuner")
errors = pytest.importorskip("triton.runtime.errors")

from few_configurations import few_configurations, size  # noqa: E402, F401 (a fixture)

CONFIGS = [
    autotuner.Config({"BK": block, "USE": True}, num_warps=warps, num_stages=stages)
    for block in (128, 64, 32)
    for stages in (4, 2)
    for warps in (8, 4)
]
KINDS = ["triton", "fla"]


class Kernel:
    """Launched with a block it writes it down; over `room` (block times stages) it does not fit."""

    def __init__(self, room: int):
        self.launched, self.room = [], room
        self.fn = lambda x, T, BK, USE: None

    def run(self, x, T, BK, num_warps, num_stages, **rest):
        if BK * num_stages > self.room:
            raise errors.OutOfResources(BK * num_stages, self.room, "shared memory")
        self.launched.append((BK, num_stages, num_warps))


def make(kind: str, kernel: Kernel, **more):
    """An autotuner that takes fewer warps for faster."""

    def bench(call, quantiles):
        call()
        return [kernel.launched[-1][2]] * 3

    if kind == "fla":
        kind = pytest.importorskip("fla.ops.utils.cache").CachedAutotuner
    else:
        kind = autotuner.Autotuner
    return kind(kernel, ["x", "T", "BK", "USE"], CONFIGS, ["T"], None, None, do_bench=bench, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_smallest_are_tried_and_the_faster_one_is_taken(few_configurations, kind):  # noqa: F811
    kernel = Kernel(room=64)
    tuned = make(kind, kernel)
    tuned.run(1, 100)
    assert kernel.launched == [(32, 2, 4), (32, 2, 8), (32, 2, 4)]
    # Known for this size now, and tried again for another.
    tuned.run(1, 100)
    assert len(kernel.launched) == 4
    tuned.run(1, 200)
    assert len(kernel.launched) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_without_it_all_are_tried(kind):
    kernel = Kernel(room=10**6)
    make(kind, kernel).run(1, 100)
    assert len(kernel.launched) == len(CONFIGS) + 1


def test_what_the_kernel_itself_rules_out_stays_out(few_configurations):  # noqa: F811
    kernel = Kernel(room=10**6)
    rule = {"early_config_prune": lambda configs, named, **rest: [c for c in configs if c.kwargs["BK"] > 32]}
    make("triton", kernel, prune_configs_by=rule).run(1, 100)
    assert {launched[:2] for launched in kernel.launched} == {(64, 2)}


def test_one_that_does_not_fit_is_passed_over(few_configurations):  # noqa: F811
    kernel = Kernel(room=64)
    rule = {"early_config_prune": lambda configs, named, **rest: [c for c in configs if (c.num_stages, c.num_warps) != (2, 8)]}
    make("triton", kernel, prune_configs_by=rule).run(1, 100)
    # The second smallest is 128 large, as (32, 4 stages) or (64, 2 stages), which this kernel has no room for.
    assert kernel.launched == [(32, 2, 4)] * 2


def test_flash_linear_attention_has_kernels_that_it_spares(few_configurations):  # noqa: F811
    chunk_h = pytest.importorskip("fla.ops.common.chunk_h")
    found = []
    for kernel in vars(chunk_h).values():
        while kernel is not None and not isinstance(kernel, autotuner.Autotuner):
            kernel = getattr(kernel, "fn", None)
        if kernel is not None:
            found.append(kernel)
            kernel.nargs = {}
            kept = kernel.prune_configs({})
            assert 1 <= len(kept) <= 2
            assert size(kept[0]) == min(size(config) for config in kernel.configs)
    assert max(len(kernel.configs) for kernel in found) > 8
