"""The kernels go through Triton's compiler and ptxas for each generation of GPUs, and fit its shared memory.

The interpreter takes what the compiler does not: a name whose shape changes within a loop, for one.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
]


CAPABILITIES = (80, 90, 100)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_kernels_compile(capability, tmp_path):
    script = Path(__file__).with_name("compiling.py")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, script, str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    kernels = {name for name, *_ in lines}
    wanted = {"nha_fwd_kernel_out", "nha_bwd_kernel_queries", "nha_fwd_kernel_decode", "nha_kernel_prompt_state"}
    assert wanted | {"few_rows_kernel_linear", "few_rows_kernel_glu", "kl_kernel", "head_loss_kernel"} <= kernels
    assert {"short_conv_fwd_kernel", "short_conv_bwd_kernel", "swiglu_fwd_kernel", "swiglu_bwd_kernel"} | {
        "norm_fwd_kernel",
        "norm_bwd_kernel",
    } <= kernels
    early = {name: {tuple(read) for other, _, *read in lines if other == name and read} for name in kernels}
    if capability < 90:
        assert not any(early.values())
        return
    # Norms too, but where rows of x and what they are multiplied by are read anew for each block.
    assert {("gate", "norm", "up")} <= early["few_rows_kernel_glu"] <= {("gate", "norm", "up"), ("gate", "up")}
    assert all("w0" in read for read in early["few_rows_kernel_linear"])
    assert {"norm", "w0", "w3"} <= set().union(*early["few_rows_kernel_linear"])
    assert early["few_rows_kernel_linear"] and not early["nha_fwd_kernel_decode"]
