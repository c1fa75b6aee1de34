"""`run_eval.py` with workers that run out of memory at random calls: python tests/faults/starved.py SEED eval ...

Calls of one row always fit, so that every cell can be done.
"""

from __future__ import annotations

import functools
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from nha_eval import cli, evaluate, worker
from nha_eval.executors import LocalExecutor

SHARE = 0.2  # of the calls that fail


def starve(seed: int) -> None:
    """Serve as a worker that holds a starved model."""
    draw = random.Random(seed)

    class Starved(worker.Model):
        def __init__(self, request):
            import torch

            super().__init__(request)
            forward = self.loaded.model.forward

            def fails_at_times(*args, **inputs):
                if inputs["input_ids"].shape[0] > 1 and draw.random() < SHARE:
                    raise torch.OutOfMemoryError("CUDA out of memory: none of it is left")
                return forward(*args, **inputs)

            self.loaded.model.forward = fails_at_times

    worker.main(Starved)


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        starve(int(sys.argv[2]))
    else:
        evaluate.LocalExecutor = functools.partial(LocalExecutor, [sys.executable, __file__, "--worker", sys.argv[1]])
        sys.argv = ["run_eval.py", *sys.argv[2:]]
        cli.main()
