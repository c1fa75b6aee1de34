"""When a call is warm, and how often it is then timed: what `eval`'s costs and `bench model` share.

cold = timed()
times = warm_times(timed, cold, repeats=20, seconds=2.0, began=time.monotonic())
"""

import time
from collections.abc import Callable

STABLE = 0.05  # two calls that differ by less than this share are warm
MAX_WARMUP = 3
LEAST_REPEATS = 3


def warm_times(
    timed: Callable[[], float],
    cold: float,
    *,
    repeats: int,
    seconds: float,
    began: float,
    per_second: float = 1.0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """What `timed()` says of each repeat, after warm-up calls until two in a row agree (`cold` is the first call's).

    `seconds` from `began` (of time.monotonic) bound warm-up and repeats, but three repeats are always made. `timed` counts
    in units of which `per_second` make a second.
    """
    previous = cold
    for _ in range(MAX_WARMUP):
        # When the repeats alone will use the budget up, one cold call has to be warm-up enough.
        if time.monotonic() - began + LEAST_REPEATS * previous / per_second > seconds:
            break
        latest = timed()
        settled = abs(latest - previous) <= STABLE * max(latest, previous)
        previous = latest
        if settled:
            break
    times: list[float] = []
    while len(times) < repeats and (len(times) < LEAST_REPEATS or time.monotonic() - began < seconds):
        times.append(timed())
        on_progress(len(times), repeats)
    return times
