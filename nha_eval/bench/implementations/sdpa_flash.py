"""Causal softmax attention by torch's scaled_dot_product_attention on its built-in FlashAttention (also on a CPU)."""

from __future__ import annotations

from nha_eval.bench import counts
from nha_eval.bench.implementations import _softmax

WINDOWS = "full"
PHASES = ("forward", "forward+backward", "decode")
COUNT = counts.softmax
UNAVAILABLE = ("No available kernel", "No viable backend")


def refusal(device, dtype, case) -> str | None:
    if device.type == "cuda" and dtype.itemsize > 2:
        return "it takes fp16 and bf16 on a GPU"
    return None


def forward(case, draw):
    return _softmax.sdpa(case, draw, "FLASH_ATTENTION")


def decode(case, draw):
    return _softmax.sdpa_step(case, draw, "FLASH_ATTENTION")
