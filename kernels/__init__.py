"""Attention operators: Native Hybrid Attention (arXiv 2510.07019) and the operators it is compared with.

Nothing heavy is imported here, and there is no ``__version__``: Transformers looks for another package of this name
when it is imported, and must be able to see at once that this is not it.

    from kernels import nha_attention, NHAState
"""

__all__ = [
    "NHAState",
    "gated_delta_attention",
    "gla_attention",
    "nha_attention",
    "short_convolution",
    "sliding_window_attention",
    "ssd_attention",
]


def __getattr__(name):
    if name == "nha_attention":
        from kernels.nha.op import nha_attention as value
    elif name == "NHAState":
        from kernels.nha.state import NHAState as value
    elif name == "sliding_window_attention":
        from kernels.sliding_window import sliding_window_attention as value
    elif name == "gla_attention":
        from kernels.gla import gla_attention as value
    elif name == "gated_delta_attention":
        from kernels.gated_delta import gated_delta_attention as value
    elif name == "short_convolution":
        from kernels.short_conv import short_convolution as value
    elif name == "ssd_attention":
        from kernels.ssd import ssd_attention as value
    else:
        raise AttributeError(f"module 'kernels' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value
