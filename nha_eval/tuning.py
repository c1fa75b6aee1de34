"""What Triton's autotuner has chosen in this process: the peers' kernels are picked by timing, so that two runs of one
checkpoint may compute in unlike orders. A cell's record holds the choices, and a fingerprint to compare two by.

This project's own kernels are chosen by a table (`kernels.nha.triton.plan`), the same at every run.
"""

from __future__ import annotations

import gc
import hashlib
import json
import sys
from typing import Any


def tuning() -> dict[str, Any] | None:
    """{"fingerprint", "choices": {kernel and key: configuration}}; None where nothing was tuned."""
    autotuner = sys.modules.get("triton.runtime.autotuner")
    if autotuner is None:
        return None
    choices = {}
    # By the exact type: asking some lazy objects for their class would load what they stand for.
    for found in (each for each in gc.get_objects() if type(each) is autotuner.Autotuner):
        name = getattr(found.base_fn, "__name__", "kernel")
        choices |= {f"{name} {key}": str(config) for key, config in found.cache.items()}
    if not choices:
        return None
    choices = dict(sorted(choices.items()))
    return {"fingerprint": hashlib.sha256(json.dumps(choices).encode()).hexdigest()[:12], "choices": choices}
