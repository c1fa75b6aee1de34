"""Gated linear attention (arXiv 2312.06635): a matrix a head, each key dimension with a decay of its own, alpha from a low-rank
projection. Names and defaults are flash-linear-attention's, so that its checkpoints fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from kernels import gla_attention
from models.batch import Batch
from models.convolutions import ShortConvolution, convolved
from models.options import options_of
from models.recurrent import GatedNorm, RecurrentMixer, RecurrentState


@dataclass(frozen=True)
class Options:
    """num_heads: of the state; expand_k, expand_v: widths of all heads' keys and values over the hidden size;
    gate_low_rank_dim: width between the gate's two projections; gate_logit_normalizer: tau in log a = logsigmoid(.) / tau;
    conv_size: taps, in tokens, of a convolution with SiLU on q, k and v each; 1: none."""

    num_heads: int = 4
    expand_k: float = 0.5
    expand_v: float = 1.0
    gate_low_rank_dim: int = 16
    gate_logit_normalizer: float = 16.0
    conv_size: int = 1


class Mixer(RecurrentMixer):
    """S_t = Diag(a_t) S_{t-1} + k_t v_t^T, o_t = q_t S_t."""

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        options = options_of(config, "gla", Options)
        hidden, self.heads, self.tau = config.hidden_size, options.num_heads, options.gate_logit_normalizer
        keys, values = int(hidden * options.expand_k), int(hidden * options.expand_v)
        if keys % self.heads or values % self.heads:
            raise ValueError(f"gla's keys are {keys} and its values {values} wide; wanted multiples of its {self.heads} heads")
        self.state_shape = (self.heads, keys // self.heads, values // self.heads)
        self.conv_size, self.conv_channels = options.conv_size, 2 * keys + values
        self.q_proj, self.k_proj = (nn.Linear(hidden, keys, bias=False) for _ in range(2))
        self.v_proj, self.g_proj = (nn.Linear(hidden, values, bias=False) for _ in range(2))
        if self.conv_size > 1:
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (ShortConvolution(n, self.conv_size) for n in (keys, keys, values))
        rank = options.gate_low_rank_dim
        self.gk_proj = nn.Sequential(nn.Linear(hidden, rank, bias=False), nn.Linear(rank, keys))
        self.g_norm_swish_gate = GatedNorm(values // self.heads, config.rms_norm_eps)
        self.o_proj = nn.Linear(values, hidden, bias=False)

    def forward(self, hidden_states: Tensor, batch: Batch, cache=None) -> Tensor:
        x, keep = batch.pack(hidden_states), cache is not None
        state, tail = cache.state if keep else None, None
        projected = [proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj)]
        if self.conv_size > 1:
            convolutions = self.q_conv1d, self.k_conv1d, self.v_conv1d
            projected, tail = convolved(projected, convolutions, batch.cu_seqlens, None if state is None else state.tail, keep)
        q, k, v, f = (y.unflatten(-1, (self.heads, -1)) for y in (*projected, self.gk_proj(x)))
        out, memory = gla_attention(
            q, k, v, F.logsigmoid(f.float()) / self.tau, cu_seqlens=batch.cu_seqlens,
            state=None if state is None else state.memory, return_state=keep,
        )  # fmt: skip
        if keep:
            cache.advance(RecurrentState(memory, tail), batch)
        gate = self.g_proj(x).unflatten(-1, (self.heads, -1))
        return batch.spread(self.o_proj(self.g_norm_swish_gate(out, gate).flatten(-2)))
