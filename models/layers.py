"""Pieces that mixers share: the projections into heads, and the decoder layer around a mixer.

Legend: B rows, T time, HQ query heads, H key-value heads, K head dimension.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from kernels import few_rows
from kernels.glu import swiglu
from kernels.nha.op import autocast_dtype
from kernels.norm import rms_norm
from kernels.standing import by_kernels
from models.batch import Batch
from models.convolutions import ConvolutionOptions, ConvolvedLayer, ShortConvolution, Tail, convolved
from models.mixers import mixer_class
from models.options import options_of

ACTIVATIONS = {None: nn.Identity, "silu": nn.SiLU}


class RMSNorm(LlamaRMSNorm):
    """Transformers' norm in one step of torch: at half precision rounded once, not before and after the weights."""

    def forward(self, hidden_states: Tensor, silu: bool = False, dtype: torch.dtype | None = None) -> Tensor:
        """hidden_states [..., width] -> the same shape; silu, dtype: as of `kernels.norm.rms_norm`."""
        if torch.promote_types(hidden_states.dtype, self.weight.dtype) != self.weight.dtype:
            x = super().forward(F.silu(hidden_states) if silu else hidden_states)
            return x if dtype is None else x.to(dtype)
        return rms_norm(hidden_states, self.weight, self.variance_epsilon, silu=silu, dtype=dtype)


def unwatched(*modules: nn.Module) -> bool:
    """Whether nothing listens to these modules, or has put a `forward` or a compiled call of its own in the place of theirs, as
    offloading and patches do: running what they consist of is then the same as calling them."""
    return not any(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or m._compiled_call_impl is not None
        or "forward" in m.__dict__
        for m in modules
    )


def plain(*modules: nn.Module) -> bool:
    """Whether these are linear layers as torch has them, which nothing wraps or listens to, as adapters, offloading and
    quantisation do."""
    return all(type(m) is nn.Linear for m in modules) and unwatched(*modules)


class HeadProjections(nn.Module):
    """q_proj, k_proj, v_proj and o_proj under the names that Llama, Mistral, Qwen2 and Qwen3 checkpoints give them.

    Activations, norm and scale of the configuration are those of layers with slots (`has_slots`), which a hybrid's attention
    does not share.
    """

    has_slots = False

    def __init__(self, config, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.query_heads, self.heads = config.num_attention_heads, config.num_key_value_heads
        hidden, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(hidden, self.query_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden, self.heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden, self.heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.query_heads * self.head_dim, hidden, bias=config.attention_output_bias)
        eps = config.rms_norm_eps if config.qk_norm_eps is None else config.qk_norm_eps
        norm = (lambda: RMSNorm(self.head_dim, eps)) if config.qk_norm else nn.Identity
        self.q_norm, self.k_norm = norm(), norm()
        width, slots = self.query_heads * self.head_dim, self.has_slots
        self.value_activation = ACTIVATIONS[config.value_activation if slots else None]()
        self.output_activation = ACTIVATIONS[config.output_activation if slots else None]()
        self.output_norm = RMSNorm(width, config.rms_norm_eps) if slots and config.output_norm else nn.Identity()
        given = config.attention_scale if slots else None
        self.scale = self.head_dim**-0.5 if given is None else given
        self.conv_size = options_of(config, config.mixers[layer_idx], ConvolutionOptions).conv_size
        if self.conv_size > 1:
            channels = [proj.out_features for proj in (self.q_proj, self.k_proj, self.v_proj)]
            self.q_conv1d, self.k_conv1d, self.v_conv1d = (ShortConvolution(width, self.conv_size) for width in channels)

    def projections(self) -> list[nn.Linear]:
        """Those of the hidden states, queries, keys and values first."""
        return [self.q_proj, self.k_proj, self.v_proj]

    def takes_few_rows(self) -> bool:
        """Whether a step of few rows can go by `kernels.few_rows`: `forward` then takes `norm`."""
        ends = self.q_norm, self.k_norm
        bare = self.conv_size == 1 and all(type(m) is nn.Identity for m in ends)
        return bare and plain(*self.projections(), self.o_proj)

    def heads_of(self, x: Tensor, norm: tuple[Tensor, float] | None = None) -> tuple[Tensor, ...]:
        """q [B, T, HQ, K], k and v [B, T, H, K] of x [B, T, hidden] without convolutions; norm: what x still wants, by the
        kernels for few rows."""
        if norm is not None:
            return self.few_heads_of(x, norm)
        return self._heads(*(proj(x) for proj in self.projections()[:3]))

    def _heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        q = self.q_norm(q.unflatten(-1, (self.query_heads, self.head_dim)))
        k = self.k_norm(k.unflatten(-1, (self.heads, self.head_dim)))
        return q, k, self.value_activation(v).unflatten(-1, (self.heads, self.head_dim))

    def heads_and_cache(self, x: Tensor, batch: Batch, cache, norm: tuple[Tensor, float] | None = None):
        """(q, k, v) as of `heads_of`, through the layer's convolutions where it has these; the part of `cache` that is
        attention's; and what is to be called once attention has moved that on, as it may refuse."""
        if self.conv_size == 1:
            return self.heads_of(x, norm), cache, nothing
        packed, keep = batch.pack(x), cache is not None
        projected = [proj(packed) for proj in self.projections()[:3]]
        convolutions = self.q_conv1d, self.k_conv1d, self.v_conv1d
        before = cache.state.inputs if keep and cache.state is not None else None
        found, after = convolved(projected, convolutions, batch.cu_seqlens, before, keep)
        heads = self._heads(*(batch.spread(y) for y in found))
        return (heads, cache.inner, partial(cache.advance, Tail(after), batch)) if keep else (heads, None, nothing)

    def with_convolutions(self, inner: CacheLayerMixin, fixed: bool) -> CacheLayerMixin:
        """A cache layer for attention, and for the convolutions where the layer has these."""
        return inner if self.conv_size == 1 else ConvolvedLayer(inner, fixed)

    def tail_elements(self) -> int:
        """Inputs of convolutions that a sequence's cache keeps."""
        return (self.conv_size - 1) * (self.query_heads + 2 * self.heads) * self.head_dim

    def few_heads_of(self, x: Tensor, norm: tuple[Tensor, float], more: tuple[str, ...] = (), divisor: float = 1.0):
        """q, k, v, and what other projections give, each [B, T, heads, *]; more: what follows these."""
        silu = "silu" if isinstance(self.value_activation, nn.SiLU) else None
        projections = self.projections()[: 3 + len(more)]
        weights, biases = [proj.weight for proj in projections], [proj.bias for proj in projections]
        found = few_rows.linear(x, weights, biases=biases, norm=norm, after=[None, None, silu, *more], divisor=divisor)
        counts = [self.query_heads, *[self.heads] * (len(found) - 1)]
        return tuple(y.unflatten(-1, (count, -1)) for y, count in zip(found, counts, strict=True))

    def out_of(self, o: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, T, hidden] of the attention's output o [B, T, HQ, K]; residual: added, by the kernels for few rows."""
        if residual is None:
            return self.o_proj(self._read(o.flatten(-2)))
        norm = None if isinstance(self.output_norm, nn.Identity) else _norm(self.output_norm)
        before = "silu" if isinstance(self.output_activation, nn.SiLU) else None
        proj = self.o_proj
        return few_rows.linear(o.flatten(-2), [proj.weight], biases=[proj.bias], norm=norm, before=before, residual=residual)[0]

    def _read(self, o: Tensor) -> Tensor:
        """What o_proj reads of o [B, T, HQ K]."""
        activation, norm = self.output_activation, self.output_norm
        if not isinstance(norm, RMSNorm):
            return norm(activation(o))
        silu = type(activation) is nn.SiLU and unwatched(activation)
        return norm(o if silu else activation(o), silu=silu, dtype=autocast_dtype(o))


def nothing() -> None:
    """What is to be called where nothing is to be done."""


def _norm(module: LlamaRMSNorm) -> tuple[Tensor, float]:
    return module.weight, module.variance_epsilon


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """What `norm` makes of x, under autocast in its dtype."""
    # All that reads it are linear layers, each of which would cast it for itself and give an fp32 gradient to be added up. What
    # wants fp32, as gates do, is made of what these layers give, which is in autocast's dtype either way.
    dtype = autocast_dtype(x)
    if isinstance(norm, RMSNorm):
        return norm(x, dtype=dtype)
    return norm(x) if dtype is None else norm(x).to(dtype)


class DecoderLayer(GradientCheckpointingLayer):
    """Pre-norm mixer, pre-norm SwiGLU (none where it is 0 wide). The mixer is `self_attn`, as checkpoints name its weights."""

    def __init__(self, config, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.self_attn = mixer_class(config.mixers[layer_idx])(config, layer_idx)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = LlamaMLP(config) if config.intermediate_size else None
        self.is_swiglu = config.hidden_act in ("silu", "swish")
        if self.mlp is not None:
            self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, batch: Batch, cache: CacheLayerMixin | None = None) -> Tensor:
        """hidden_states [B, T, hidden] -> the same shape; cache: this layer's own."""
        few = few_rows.takes(hidden_states)
        if few and getattr(self.self_attn, "takes_few_rows", bool)():
            hidden_states = self.self_attn(hidden_states, batch, cache, norm=_norm(self.input_layernorm))
        else:
            hidden_states = hidden_states + self.self_attn(_normed(self.input_layernorm, hidden_states), batch, cache)
        if self.mlp is None:
            return hidden_states
        gate, up, down = self.mlp.gate_proj, self.mlp.up_proj, self.mlp.down_proj
        if few and self.is_swiglu and plain(gate, up, down) and gate.bias is None:
            inner = few_rows.glu(hidden_states, gate.weight, up.weight, norm=_norm(self.post_attention_layernorm))
            return few_rows.linear(inner, [down.weight], residual=hidden_states)[0]
        return hidden_states + self._mlp(_normed(self.post_attention_layernorm, hidden_states))

    def _mlp(self, x: Tensor) -> Tensor:
        mlp = self.mlp
        # A subclass or a wrapper, as sharding makes, may do more than the three projections. These are called as the modules
        # that they are, for adapters, quantisation and hooks may stand there too.
        inside = self.is_swiglu and type(mlp) is LlamaMLP and by_kernels(x) and unwatched(mlp, mlp.act_fn)
        return mlp.down_proj(swiglu(mlp.gate_proj(x), mlp.up_proj(x))) if inside else mlp(x)
