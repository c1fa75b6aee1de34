"""Sliding-window softmax attention by the package flash-attn, where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

from nha_eval.bench import counts
from nha_eval.bench.implementations import Call, _softmax

WINDOWS = "sliding"
PHASES = ("forward", "forward+backward")
COUNT = counts.softmax


def refusal(device, dtype, case) -> str | None:
    if device.type != "cuda":
        return "it wants a CUDA device"
    if find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    return "it takes fp16 and bf16" if dtype.itemsize > 2 else None


def forward(case, draw) -> Call:
    from flash_attn import flash_attn_func

    def run(q, k, v):
        return flash_attn_func(q, k, v, causal=True, window_size=(case.window - 1, 0))

    def define(q, k, v):
        return _softmax.define(q, k, v, case.window)

    return Call(_softmax.inputs(case.shape, case.batch, case.length, draw), run, define, "flash-attn")
