"""Which GPUs of this machine a process may use."""

from __future__ import annotations

import os


def visible_gpus() -> list[str]:
    """Their names, as CUDA_VISIBLE_DEVICES takes them: what it holds, or the numbers of all that there are."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if seen is not None:
        return [part.strip() for part in seen.split(",") if part.strip()]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
