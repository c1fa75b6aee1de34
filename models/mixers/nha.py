"""Native Hybrid Attention: gated slots and the last `window` tokens under one softmax (arXiv 2510.07019).

log a = logsigmoid(f) / tau with f = g_proj(x), a vector of `num_slots` for each key-value head; or, where slots compete,
log(1 - softmax(f)) / tau. A window of None makes the layer plain softmax attention over everything, on the same weights.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization

from kernels import nha_attention, sliding_window_attention
from kernels.nha.op import resolve_backend
from models.batch import Batch
from models.layers import ACTIVATIONS, nothing
from models.mixers.attention import FullAttention


def share_loss(slots: Tensor, window: Tensor, target: float) -> Tensor:
    """Cross-entropy of the slots' share of attention, sigmoid(slots - window), with the share `target`, in the mean over the
    queries that reach both: log-sum-exps of both parts [B, T, HQ]. The window's takes no gradient.
    """
    both = slots.isfinite() & window.isfinite()
    share = torch.where(both, slots - window.detach(), 0.0)
    each = F.binary_cross_entropy_with_logits(share, torch.full_like(share, target), reduction="none")
    return torch.where(both, each, 0.0).sum() / both.sum().clamp(min=1)


class SlotLogits(nn.Module):
    """What each query head makes of its logits with slots: `scale` times them plus `bias`, each [HQ], learnt where the
    configuration's `slot_logits` asks for it."""

    def __init__(self, config):
        super().__init__()
        heads, wanted = config.num_attention_heads, config.slot_logits
        self.bias_init = config.slot_bias_init
        self.scale = nn.Parameter(torch.ones(heads)) if wanted in ("scale", "both") else None
        self.bias = nn.Parameter(torch.full((heads,), self.bias_init)) if wanted in ("bias", "both") else None

    def start(self) -> None:
        """Sets both where they start."""
        if self.scale is not None:
            initialization.constant_(self.scale, 1.0)
        if self.bias is not None:
            initialization.constant_(self.bias, self.bias_init)

    def forward(self, q: Tensor, mapped: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """(slot_q, slot_bias) as `nha_attention` takes them; mapped: q [B, T, HQ, K] as the feature map leaves it, if any."""
        if self.scale is None:
            return mapped, self.bias
        scale = self.scale[:, None]
        return (q if mapped is None else mapped) * scale.to(q.dtype), self.bias


class GatedSlots(FullAttention):
    """Projections, gate and options of a layer with slots; `window` tokens as they are, 0 for none, None for all."""

    smallest_window = 0
    has_slots = True
    observer = None  # a `models.telemetry.SlotShares`, while one is wanted

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        self.slots, self.tau = config.num_slots, config.gate_logit_normalizer
        self.g_proj = nn.Linear(config.hidden_size, self.heads * self.slots, bias=config.gate_bias)
        self.gate_bias_init, self.gate_horizons = config.gate_bias_init, config.gate_horizons
        self.slots_compete = config.gate_activation == "softmax"
        self.slot_logits = SlotLogits(config) if config.slot_logits else None
        self.feature_map = ACTIVATIONS[config.feature_map]() if config.feature_map else None
        self.slot_delay = 0 if config.slot_overlap else None
        self.empty_slots, self.aux_loss_target = config.empty_slots, config.aux_loss_target
        self.slots_share = nn.Parameter(torch.zeros(self.query_heads)) if self.sums(config) else None

    @staticmethod
    def sums(config) -> bool:
        """Whether slots and window are weighed by a share that is learnt, in the place of one softmax."""
        return config.fusion == "sum"

    def start_gate(self) -> None:
        """Sets the gate's bias, and what is learnt of the slots' logits, where the configuration starts them; what was read
        from a checkpoint stays."""
        if self.slots_share is not None:
            initialization.zeros_(self.slots_share)
        if self.slot_logits is not None:
            self.slot_logits.start()
        if self.g_proj.bias is None:
            return
        if self.gate_horizons is None:
            initialization.constant_(self.g_proj.bias, self.gate_bias_init)
            return
        first, last = (math.log(x) for x in self.gate_horizons)
        tokens = torch.linspace(first, last, self.slots, dtype=torch.float64).exp()
        # sigmoid(b) ** (1 / tau) = exp(-1 / tokens), solved for b.
        decay = -self.tau / tokens
        initialization.copy_(self.g_proj.bias, (decay - torch.log(-torch.expm1(decay))).repeat(self.heads))

    def log_decay(self, hidden_states: Tensor) -> Tensor:
        """[B, T, H, M] in the projection's dtype, <= 0. Rounded to bf16 it errs by one part in 500, as keys and values do."""
        f = self.g_proj(hidden_states).unflatten(-1, (self.heads, self.slots))
        if not self.slots_compete:
            return F.logsigmoid(f) / self.tau
        # In half precision 1 - p would know no small p; and a token that takes a slot whole leaves it a decay above 0.
        share = torch.log_softmax(f.float() if f.itemsize == 2 else f, -1).clamp(max=-1e-12)
        decay = torch.log(-torch.expm1(share)).clamp(max=0.0) / self.tau
        # Under autocast the hidden states are in its dtype, and what a logarithm gives is in fp32, as everywhere in torch.
        return decay if torch.is_autocast_enabled(decay.device.type) else decay.to(hidden_states.dtype)

    def projections(self) -> list[nn.Linear]:
        return [*super().projections(), self.g_proj]

    def takes_few_rows(self) -> bool:
        return not self.slots_compete and super().takes_few_rows()

    def attend(self, hidden_states: Tensor, batch: Batch, cache, window: int, norm=None) -> Tensor:
        """The layer at an int window: hidden_states [B, T, hidden] -> [B, T, HQ, K]; norm: as in `heads_of`."""
        moved_on = nothing
        if norm is None:
            heads, cache, moved_on = self.heads_and_cache(hidden_states, batch, cache)
            found = *heads, self.log_decay(hidden_states)
        else:
            found = self.few_heads_of(hidden_states, norm, ("logsigmoid",), self.tau)
        q, k, v, g = (batch.pack(x) for x in found)
        wants_share = batch.aux_losses is not None and window > 0
        slot_q, slot_bias = self.feature_map(q) if self.feature_map else None, None
        if self.slot_logits is not None:
            slot_q, slot_bias = self.slot_logits(q, slot_q)
        inputs = {
            "rotary": batch.rotary if window else None,
            "slot_q": slot_q,
            "slot_bias": slot_bias,
            "slot_k": self.feature_map(k) if self.feature_map else None,
            "slot_delay": self.slot_delay,
            "scale": self.scale,
            "empty_slots": self.empty_slots,
            "cu_seqlens": batch.cu_seqlens,
            "state": None if cache is None else cache.state,
        }
        if self.slots_share is not None and window > 0:
            if cache is not None:
                raise ValueError("fusion 'sum' is for training and scoring, and keeps no cache; wanted use_cache=False")
            return batch.spread(self.sum_of_parts(q, k, v, g, window, inputs))
        if self.observer is not None:
            self.observe(q, k, v, g, window, inputs)
        out, state, *parts = nha_attention(
            q,
            k,
            v,
            g,
            window,
            **inputs,
            return_state=cache is not None,
            return_lse=wants_share,
            # A cache's state is its own (see `StateLayer`), and only a backward pass would come back to the old one.
            overwrite_state=cache is not None and not torch.is_grad_enabled(),
        )
        if cache is not None:
            cache.advance(state, batch)
        moved_on()
        if wants_share:
            batch.aux_losses.append(share_loss(*parts[0], self.aux_loss_target))
        return batch.spread(out)

    def sum_of_parts(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, window: int, inputs: dict) -> Tensor:
        """A softmax over the slots and one over the window, weighed by the head's share; the window's alone as long as the
        slots are empty. Shapes as in `nha_attention`, [B, T, HQ, K].
        """
        delay = window if self.slot_delay is None else self.slot_delay
        packed = {"cu_seqlens": inputs["cu_seqlens"], "scale": self.scale}
        near, _ = sliding_window_attention(q, k, v, window, rotary=inputs["rotary"], **packed)
        names = ("slot_q", "slot_bias", "slot_k", "empty_slots")
        apart = {**{name: inputs[name] for name in names}, **packed, "slot_delay": delay}
        far, _, (reached, _) = nha_attention(q, k, v, g, 0, **apart, return_lse=True)
        share = torch.where(reached.isfinite(), self.slots_share.sigmoid(), 0.0)[..., None].to(near.dtype)
        return near + share * (far - near)

    @torch.no_grad()
    def observe(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, window: int, inputs: dict) -> None:
        """Hands the observer the log-sum-exps of a call of the operator."""
        # A call of its own: one that is asked for these may take another path, whose output differs in the last bits.
        *_, lse = nha_attention(q, k, v, g, window, **inputs, return_lse=True)
        state = inputs["state"]
        self.observer.add(self.layer_idx, lse, inputs["cu_seqlens"], None if state is None else state.seen)

    def operator_backend(self) -> str:
        """What `nha_attention` runs on for this layer's weights."""
        return resolve_backend("auto", self.g_proj.weight.device, self.g_proj.weight.dtype)

    def state_elements(self, length: int) -> int:
        """As of `models.mixers`: slots and the window's keys and values, all of these where the window is None; and the inputs
        that convolutions keep."""
        window = self.window if self.has_window else 0
        held = length if window is None else self.slots + min(length, window)
        return 2 * self.heads * self.head_dim * held + self.tail_elements()

    def state_bytes_at(self, window: int, batch_size: int, length: int, itemsize: int) -> int:
        """Bytes of an NHAState: slots in fp32, the ring's tokens (k, v, decays, angles, mapped keys) in `itemsize`; and of what
        convolutions keep."""
        kept = min(length, window)
        slots = 2 * self.heads * self.slots * self.head_dim * 4
        tokens = (2 + bool(self.feature_map)) * self.heads * self.head_dim + self.head_dim + self.heads * self.slots
        return batch_size * (slots + (kept * tokens + self.tail_elements()) * itemsize + 8)


class Mixer(GatedSlots):
    """One softmax over slots and window."""

    def forward(self, hidden_states: Tensor, batch: Batch, cache=None, norm=None) -> Tensor:
        residual = None if norm is None else hidden_states
        if self.window is None:
            heads, cache, moved_on = self.heads_and_cache(hidden_states, batch, cache, norm)
            out = self.everything(*heads, batch, cache)
            moved_on()
            return self.out_of(out, residual)
        return self.out_of(self.attend(hidden_states, batch, cache, self.window, norm), residual)

    def backend(self) -> str:
        """What the layer runs on at its window."""
        return "sdpa" if self.window is None else self.operator_backend()

    def state_bytes(self, batch_size: int, length: int, itemsize: int) -> int:
        """Bytes of the cache after `length` tokens of `itemsize` bytes an element."""
        if self.window is None:
            return self.all_keys_bytes(batch_size, length, itemsize)
        return self.state_bytes_at(self.window, batch_size, length, itemsize)
