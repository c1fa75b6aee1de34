"""Gated DeltaNet (arXiv 2412.06464): before a value is written under a key, what the state holds there is taken away, as much
as beta says. Names and defaults are flash-linear-attention's, so that its checkpoints fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization

from kernels import gated_delta_attention
from models.batch import Batch
from models.convolutions import ShortConvolution, convolved
from models.options import options_of
from models.recurrent import GatedNorm, RecurrentMixer, RecurrentState


@dataclass(frozen=True)
class Options:
    """num_heads, head_dim: of the keys; expand_v: width of a value over that of a key; conv_size: taps, in tokens."""

    num_heads: int = 6
    head_dim: int = 256
    expand_v: float = 2.0
    conv_size: int = 4


class Mixer(RecurrentMixer):
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T, o_t = q_t S_t, q and k L2-normalised,
    log a = -exp(A_log) softplus(Wx + dt_bias)."""

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        options = options_of(config, "gated_deltanet", Options)
        hidden, self.heads, self.conv_size = config.hidden_size, options.num_heads, options.conv_size
        value_dim = int(options.head_dim * options.expand_v)
        keys, values = self.heads * options.head_dim, self.heads * value_dim
        self.state_shape = (self.heads, options.head_dim, value_dim)
        widths = (keys, keys, values)
        self.conv_channels = sum(widths)
        self.q_proj, self.k_proj = (nn.Linear(hidden, keys, bias=False) for _ in range(2))
        self.v_proj, self.g_proj = (nn.Linear(hidden, values, bias=False) for _ in range(2))
        self.a_proj, self.b_proj = (nn.Linear(hidden, self.heads, bias=False) for _ in range(2))
        self.q_conv1d, self.k_conv1d, self.v_conv1d = (ShortConvolution(width, self.conv_size) for width in widths)
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.o_norm = GatedNorm(value_dim, config.rms_norm_eps)
        self.o_proj = nn.Linear(values, hidden, bias=False)
        self.start_gate()

    def start_gate(self) -> None:
        """Decays from slow to fast over the heads: A uniform in (0, 16), steps log-uniform in (0.001, 0.1), as published."""
        start_decays(self.A_log, self.dt_bias)

    def forward(self, hidden_states: Tensor, batch: Batch, cache=None) -> Tensor:
        x, keep = batch.pack(hidden_states), cache is not None
        state = cache.state if keep else None
        projected = [proj(x) for proj in (self.q_proj, self.k_proj, self.v_proj)]
        convolutions = self.q_conv1d, self.k_conv1d, self.v_conv1d
        found, tail = convolved(projected, convolutions, batch.cu_seqlens, None if state is None else state.tail, keep)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in found)
        g = -self.A_log.float().exp() * F.softplus(self.a_proj(x).float() + self.dt_bias)
        out, memory = gated_delta_attention(
            q, k, v, g, self.b_proj(x).float().sigmoid(), l2_norm=True, cu_seqlens=batch.cu_seqlens,
            state=None if state is None else state.memory, return_state=keep,
        )  # fmt: skip
        if keep:
            cache.advance(RecurrentState(memory, tail), batch)
        gate = self.g_proj(x).unflatten(-1, (self.heads, -1))
        return batch.spread(self.o_proj(self.o_norm(out, gate).flatten(-2)))


@torch.no_grad()
def start_decays(a_log: Tensor, dt_bias: Tensor) -> None:
    """A_log and dt_bias [H] as Mamba-2 and Gated DeltaNet start them: A uniform in (0, 16), softplus(dt_bias) log-uniform in
    (0.001, 0.1). What was read from a checkpoint stays."""
    initialization.copy_(a_log, torch.empty_like(a_log).uniform_(1e-3, 16).log())
    step = torch.empty_like(dt_bias).uniform_(-6.9078, -2.3026).exp()
    initialization.copy_(dt_bias, step + torch.log(-torch.expm1(-step)))
