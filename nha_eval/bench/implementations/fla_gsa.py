"""Gated slot attention by flash-linear-attention: NHA without a window. Grouped queries are its own."""

from __future__ import annotations

from nha_eval.bench import counts
from nha_eval.bench.implementations import Call, Step, _fla

WINDOWS = "none"
PHASES = ("forward", "forward+backward", "decode")
COUNT = counts.gsa
COMPILES = "tunes"


def refusal(device, dtype, case) -> str | None:
    return _fla.refusal(device)


def _inputs(shape, batch: int, time: int, draw) -> dict:
    g = draw.log_decay(batch, time, shape.kv_heads, shape.slots, over=8)
    return {
        "q": draw.normal(batch, time, shape.query_heads, shape.key_dim),
        "k": draw.normal(batch, time, shape.kv_heads, shape.key_dim),
        "v": draw.normal(batch, time, shape.kv_heads, shape.value_dim),
        # The share of a token that each slot takes, which the layer computes before it calls the operator.
        "s": (1 - g.float().exp()).to(g.dtype),
        "g": g,
    }


def forward(case, draw) -> Call:
    from fla.ops.gsa import chunk_gsa
    from fla.ops.gsa.naive import naive_recurrent_gsa

    return Call(
        _inputs(case.shape, case.batch, case.length, draw),
        lambda **given: chunk_gsa(**given)[0],
        lambda **given: naive_recurrent_gsa(**given)[0],
        _fla.backend(),
        f"g in {draw.dtype_name}; 1 - exp(g) made beforehand",
    )


def decode(case, draw) -> Step:
    from fla.ops.gsa import fused_recurrent_gsa
    from fla.ops.gsa.naive import naive_recurrent_gsa

    filled = 2 * case.shape.slots
    everything = _inputs(case.shape, case.batch, filled + 1, draw)
    before = {name: x[:, :filled].float() for name, x in everything.items()}
    state = [x.contiguous() for x in naive_recurrent_gsa(**before, output_final_state=True)[1]]
    return Step(
        {name: x[:, filled:].contiguous() for name, x in everything.items()},
        lambda: tuple(x.clone() for x in state),
        lambda state, **given: fused_recurrent_gsa(**given, initial_state=state, output_final_state=True)[0],
        lambda: naive_recurrent_gsa(**{name: x.float() for name, x in everything.items()})[0][:, -1:],
        sum(x.numel() * x.element_size() for x in state),
        _fla.backend(),
        f"g in {draw.dtype_name}; a new state is written, from a prefill of {filled} tokens: it is as large at any context",
    )
