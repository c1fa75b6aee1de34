"""Causal softmax attention by torch's scaled_dot_product_attention on cuDNN."""

from __future__ import annotations

from nha_eval.bench import counts
from nha_eval.bench.implementations import _softmax

WINDOWS = "full"
PHASES = ("forward", "forward+backward", "decode")
COUNT = counts.softmax
UNAVAILABLE = ("No available kernel", "No viable backend")


def refusal(device, dtype, case) -> str | None:
    return None if device.type == "cuda" else "cuDNN wants a CUDA device"


def forward(case, draw):
    return _softmax.sdpa(case, draw, "CUDNN_ATTENTION")


def decode(case, draw):
    return _softmax.sdpa_step(case, draw, "CUDNN_ATTENTION")
