"""Gated linear attention by flash-linear-attention. It has no grouped queries: every query head gets its own k, v and g."""

from __future__ import annotations

from nha_eval.bench import counts
from nha_eval.bench.implementations import Call, _fla

WINDOWS = "none"
PHASES = ("forward", "forward+backward")
COUNT = counts.gla
COMPILES = "tunes"


def refusal(device, dtype, case) -> str | None:
    return _fla.refusal(device)


def forward(case, draw) -> Call:
    from fla.ops.gla import chunk_gla
    from fla.ops.gla.naive import naive_recurrent_gla

    s = case.shape
    size = (case.batch, case.length, s.query_heads)
    given = {
        "q": draw.normal(*size, s.key_dim),
        "k": draw.normal(*size, s.key_dim),
        "v": draw.normal(*size, s.value_dim),
        "g": draw.log_decay(*size, s.key_dim, over=16),
    }
    return Call(
        given,
        lambda q, k, v, g: chunk_gla(q, k, v, g)[0],
        lambda q, k, v, g: naive_recurrent_gla(q, k, v, g)[0],
        _fla.backend(),
        _fla.heads_note(s, draw),
    )
