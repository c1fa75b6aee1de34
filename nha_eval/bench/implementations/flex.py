"""Sliding-window softmax attention by torch's flex_attention, compiled for each length on its own.

The blocks that a window reaches are written down directly: `create_block_mask` would first make the mask of every pair,
17 GB at 131,072 tokens.
"""

from __future__ import annotations

from nha_eval.bench import counts
from nha_eval.bench.implementations import Call, _softmax

WINDOWS = "sliding"
PHASES = ("forward", "forward+backward")
COUNT = counts.softmax
COMPILES = "lengths"
BLOCK = 128  # flex_attention's own default


def refusal(device, dtype, case) -> str | None:
    if case.window == 0:
        return "a window of 0 leaves it nothing to attend to"
    return "on a CPU it has no backward" if device.type == "cpu" and case.backward else None


def block_mask(length: int, window: int, device):
    """The BlockMask of a causal window over `length` tokens, for all batches and heads."""
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    def inside(batch, head, q, k):
        return (q >= k) & (q - k < window)

    # Row r holds queries r * BLOCK and on, and reaches the key blocks `first` to r. Those from `whole` to r - 1 lie inside
    # every query's window and need no mask; in a last row that is not full, none does.
    rows = torch.arange(-(-length // BLOCK), device=device)
    first = ((rows * BLOCK - window + 1) // BLOCK).clamp(min=0)
    whole = torch.minimum((((rows + 1) * BLOCK - window + BLOCK - 1) // BLOCK).maximum(first), rows)
    whole = torch.where((rows + 1) * BLOCK > length, rows, whole)
    places, masked = torch.arange(len(rows), device=device), (whole - first)[:, None]
    partial = torch.where(places < masked, first[:, None] + places, rows[:, None])
    full = whole[:, None] + places

    def table(blocks):
        return blocks.clamp(max=len(rows) - 1).to(torch.int32)[None, None].contiguous()

    return BlockMask.from_kv_blocks(
        (whole - first + 1).to(torch.int32)[None, None],
        table(partial),
        (rows - whole).to(torch.int32)[None, None],
        table(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=inside,
        seq_lengths=(length, length),
    )


def forward(case, draw) -> Call:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    # Each length is compiled for itself: after a second one torch would go over to a kernel for any length.
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    mask = block_mask(case.length, case.window, draw.device)
    grouped = case.shape.query_heads != case.shape.kv_heads

    def run(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return compiled(q, k, v, block_mask=mask, enable_gqa=grouped).transpose(1, 2)

    def define(q, k, v):
        return _softmax.define(q, k, v, case.window)

    return Call(_softmax.inputs(case.shape, case.batch, case.length, draw), run, define, "inductor")
