"""Gated DeltaNet's recurrence by flash-linear-attention, q and k normalised beforehand. Every query head gets its own k, v
and gates.
"""

from __future__ import annotations

from nha_eval.bench import counts
from nha_eval.bench.implementations import Call, _fla

WINDOWS = "none"
PHASES = ("forward", "forward+backward")
COUNT = counts.gated_delta_rule
COMPILES = "tunes"
# Its backward is wrong on Hopper with Triton 3.4 to 3.7.0, and raises there unless tilelang is installed.
UNAVAILABLE = ("install tilelang",)


def refusal(device, dtype, case) -> str | None:
    return _fla.refusal(device)


def forward(case, draw) -> Call:
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule

    s = case.shape
    size = (case.batch, case.length, s.query_heads)
    given = {
        "q": draw.unit(*size, s.key_dim),
        "k": draw.unit(*size, s.key_dim),
        "v": draw.normal(*size, s.value_dim),
        "g": draw.log_decay(*size, over=8),
        "beta": draw.normal(*size).sigmoid(),
    }
    return Call(
        given,
        lambda **given: chunk_gated_delta_rule(**given)[0],
        lambda **given: naive_recurrent_gated_delta_rule(**given)[0],
        _fla.backend(),
        _fla.heads_note(s, draw) + "; q and k normalised beforehand",
    )
