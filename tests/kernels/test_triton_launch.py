"""What is launched again directly, and what Triton has to look at anew."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


class Kernel:
    """Stands for a compiled kernel's two forms, and writes down which was launched with what."""

    arg_names = ("x", "y", "n", "SIZE", "FLAG")

    def __init__(self):
        self.looked, self.direct = [], []

    def __getitem__(self, grid):
        def look(*arguments, **constants):
            self.looked.append((grid, arguments, constants))
            return Compiled(self)

        return look


class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments: self.kernel.direct.append((grid, arguments))


def test_only_what_decides_the_code_is_looked_at(monkeypatch):
    from kernels.nha.triton.launch import launch

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    kernel, x = Kernel(), torch.zeros(64)
    other = torch.ones(64)
    launch(kernel, (3,), x, None, 5, FLAG=True, SIZE=16, num_warps=4)
    launch(kernel, (4, 2), other, None, 6, FLAG=True, SIZE=16, num_warps=4)
    assert len(kernel.looked) == 1
    (grid, arguments), *rest = kernel.direct
    assert not rest and grid == (4, 2, 1)
    # Constants follow in the kernel's own order; options of the compiler do not.
    assert arguments[0] is other and arguments[1:] == (None, 6, 16, True)
    changed = [
        (x.half(), None, 5, {}),
        (torch.zeros(65)[1:], None, 5, {}),  # no longer aligned to 16 bytes
        (x, x, 5, {}),
        (x, None, 2**40, {}),
        (x, None, 5, {"FLAG": False}),
        (x, None, 5, {"num_warps": 8}),
    ]
    for count, (*arguments, constants) in enumerate(changed, start=2):
        launch(kernel, (3,), *arguments, **{"FLAG": True, "SIZE": 16, "num_warps": 4} | constants)
        assert len(kernel.looked) == count
    assert len(kernel.direct) == 1


def test_steps_begin_early_in_graphs_alone(monkeypatch):
    from kernels.nha.triton import launch

    state = {"captured": False}
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["captured"])
    monkeypatch.setattr(launch, "begins_early", lambda device: True)
    kernel, x, loaded = Kernel(), torch.zeros(64), []
    kernel.arg_names = ("x", "SIZE", "PDL")
    kernel.warmup = lambda *arguments, grid, **constants: loaded.append(constants) or Compiled(kernel)
    launch.launch_step(kernel, (3,), x, SIZE=16, num_warps=4)
    off, on = ({"SIZE": 16, "num_warps": 4, "PDL": flag, "launch_pdl": flag} for flag in (False, True))
    # The form for graphs is at hand from the first call on: none could be loaded while a graph is captured.
    assert [constants for _, _, constants in kernel.looked] == [off] and loaded == [on] and not kernel.direct
    launch.launch_step(kernel, (3,), x, SIZE=16, num_warps=4)
    state["captured"] = True
    launch.launch_step(kernel, (3,), x, SIZE=16, num_warps=4)
    assert [arguments[1:] for _, arguments in kernel.direct] == [(16, False), (16, True)]
    assert len(kernel.looked) == len(loaded) == 1
    monkeypatch.setattr(launch, "begins_early", lambda device: False)
    launch.launch_step(kernel, (3,), x, SIZE=16, num_warps=4)
    assert kernel.looked[-1][2] == {"SIZE": 16, "num_warps": 4, "PDL": False}


# A process of its own: where another test has had the kernels interpreted, this one's modules hold no compiled form of them.
COMPILED_IN = """
import json
from triton.runtime.jit import JITFunction
from kernels.nha.triton import backward, decode, forward, plan, prompt_state, states, stream

found = {}
for module in (backward, decode, forward, plan, prompt_state, states, stream):
    for name, kernel in vars(module).items():
        if isinstance(kernel, JITFunction) and "_kernel_" in name:
            numbers = [p for p in kernel.params if not p.is_constexpr]
            found[name] = {p.name: bool(p.do_not_specialize) for p in numbers}
print(json.dumps(found))
"""


def test_numbers_are_never_compiled_in():
    """Every number that a kernel takes at run time is named in its `do_not_specialize`."""
    compiled = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILED_IN], env=compiled, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert len(found) > 10
    numbers = {"window", "delay", "ring", "zero", "chunks", "rows", "time", "token_rows", "N", "C", "KB", "per_segment", "size"}
    for name, parameters in found.items():
        for parameter in numbers & parameters.keys():
            is_table = name == "nha_kernel_plan" and parameter == "chunks"
            assert parameters[parameter] or is_table, (name, parameter)
