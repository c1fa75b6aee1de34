"""Mamba-2 (arXiv 2405.21060): a matrix a head, decayed by one number a head and step; groups of heads share keys and queries.
Names and defaults are those of Transformers' and flash-linear-attention's Mamba-2, so that its checkpoints fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import ssd_attention
from models.batch import Batch
from models.convolutions import ShortConvolution
from models.mixers.gated_deltanet import start_decays
from models.options import options_of
from models.recurrent import GatedNorm, RecurrentMixer, RecurrentState


@dataclass(frozen=True)
class Options:
    """expand: inner width over the hidden size; head_dim: of the values; state_size: of keys and queries; n_groups: of heads
    that share these; conv_size: taps, in tokens."""

    expand: float = 2
    head_dim: int = 64
    state_size: int = 128
    n_groups: int = 1
    conv_size: int = 4


class Mixer(RecurrentMixer):
    """S_t = a_t S_{t-1} + dt_t k_t v_t^T, o_t = q_t S_t + D v_t, a_t = exp(-exp(A_log) dt_t)."""

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        options = options_of(config, "mamba2", Options)
        hidden, self.groups, self.conv_size = config.hidden_size, options.n_groups, options.conv_size
        inner = int(options.expand * hidden)
        if inner % options.head_dim:
            raise ValueError(f"mamba2's inner width is {inner}; wanted a multiple of its head_dim {options.head_dim}")
        self.heads, self.keys = inner // options.head_dim, options.state_size
        if self.heads % self.groups:
            raise ValueError(f"mamba2 has {self.heads} heads in {self.groups} groups; wanted a multiple")
        self.state_shape = (self.heads, self.keys, options.head_dim)
        self.inner, self.conv_channels = inner, inner + 2 * self.groups * self.keys
        self.in_proj = nn.Linear(hidden, inner + self.conv_channels + self.heads, bias=False)
        self.conv1d = ShortConvolution(self.conv_channels, self.conv_size, bias=True)
        self.A_log, self.dt_bias = nn.Parameter(torch.empty(self.heads)), nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedNormBefore(inner, self.groups, config.rms_norm_eps)
        self.out_proj = nn.Linear(inner, hidden, bias=False)
        self.start_gate()

    def start_gate(self) -> None:
        """Decays from slow to fast over the heads, as published."""
        start_decays(self.A_log, self.dt_bias)

    def forward(self, hidden_states: Tensor, batch: Batch, cache=None) -> Tensor:
        keep = cache is not None
        state = cache.state if keep else None
        gate, mixed, dt = self.in_proj(batch.pack(hidden_states)).split([self.inner, self.conv_channels, self.heads], -1)
        mixed, tail = self.conv1d(mixed, batch.cu_seqlens, None if state is None else state.tail, keep)
        v, k, q = mixed.split([self.inner, *[self.groups * self.keys] * 2], -1)
        dt = F.softplus(dt.float() + self.dt_bias)
        out, memory = ssd_attention(
            q.unflatten(-1, (self.groups, -1)), k.unflatten(-1, (self.groups, -1)), v.unflatten(-1, (self.heads, -1)),
            -self.A_log.float().exp() * dt, dt, D=self.D, cu_seqlens=batch.cu_seqlens,
            state=None if state is None else state.memory, return_state=keep,
        )  # fmt: skip
        if keep:
            cache.advance(RecurrentState(memory, tail), batch)
        return batch.spread(self.out_proj(self.norm(out.flatten(-2), gate)))


class GatedNormBefore(GatedNorm):
    """RMSNorm, over each group's part by itself, of what the gate's SiLU has been multiplied into, as Mamba-2 has it."""

    def __init__(self, width: int, groups: int, eps: float):
        super().__init__(width, eps)
        self.groups = groups

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """x and gate of one shape [..., width]."""
        y = (x.float() * F.silu(gate.float())).unflatten(-1, (self.groups, -1))
        y = F.rms_norm(y, (y.shape[-1],), eps=self.eps).flatten(-2) * self.weight.float()
        return y.to(gate.dtype)
