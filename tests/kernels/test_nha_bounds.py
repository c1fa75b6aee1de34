"""No kernel reads or writes out of bounds: a few calls of each kind under NVIDIA's compute-sanitizer, in a process of its own.

The file is that process's program too: `compute-sanitizer python tests/kernels/test_nha_bounds.py`.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FOUND = 9


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer")
def test_nothing_out_of_bounds():
    root = Path(__file__).parents[2]
    # Every tensor an allocation of its own, so that the next one's memory is no room to stray into.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = ["compute-sanitizer", "--error-exitcode", str(FOUND), sys.executable, __file__]
    ran = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    assert "calls: " in ran.stdout


def calls():
    """Forward, backward and decode at lengths that no tile divides."""
    import torch
    from nha_cases import Case

    from kernels import nha_attention

    streamed = Case(333, 64, 64, 4, "mask", None, False, True, False, "batch", 1.0, key_dim=128, value_dim=128, heads=2)
    cases = [
        streamed,
        replace(streamed, layout="packed", group=3, key_dim=64, value_dim=64, window=16, strength=30.0),
        replace(streamed, window=300, rotary=False, slot_bias=True),
        replace(streamed, slots=17, key_dim=96, value_dim=48, window=7, slot_delay=0),
        replace(streamed, slots=200, layout="packed", key_dim=256, value_dim=256, window=0, feature_map=True),
        replace(streamed, time=1),
    ]
    made = 0
    for case in cases:
        x, settings = case.inputs(torch.bfloat16)
        x = {name: t.cuda().requires_grad_() for name, t in x.items()}
        rotary, bounds = settings.pop("rotary", None), settings.pop("cu_seqlens", None)
        rotary = rotary and tuple(t.cuda() for t in rotary)
        settings["cu_seqlens"] = bounds if bounds is None else bounds.cuda()
        out, state = nha_attention(**x, **settings, rotary=rotary, return_state=True, backend="triton")
        out.float().square().sum().backward()
        made += 2
        if bounds is None:
            new = {name: t.detach() if name == "slot_bias" else t[:, :2].detach().contiguous() for name, t in x.items()}
            rotary = rotary and tuple(t[:2].contiguous() for t in rotary)
            for count in (1, 2):
                step = {name: t if name == "slot_bias" else t[:, :count].contiguous() for name, t in new.items()}
                turns = rotary and tuple(t[:count] for t in rotary)
                with torch.no_grad():
                    nha_attention(
                        **step, **settings, rotary=turns, state=state, return_state=True, overwrite_state=True, backend="triton"
                    )
                made += 1
    torch.cuda.synchronize()
    print(f"calls: {made}")


if __name__ == "__main__":
    calls()
