"""`run_eval.py` in a launch with FSDP on CPUs: accelerate takes FSDP on devices alone, and is told here that CPUs are such."""

import sys
from functools import wraps
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from nha_eval import cli

made = PartialState.__init__


@wraps(made)
def with_devices(self, *args, **kwargs):
    made(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = with_devices
code = cli.run(sys.argv[1:])
assert code or AcceleratorState().distributed_type == DistributedType.FSDP
sys.exit(code)
