"""What each stage makes small, as modules that take a batch and give a loss: alignment, distillation, language modelling.

A module holds the student, whose parameters are trained, and beside it, as no part of it, the teacher. Called as
`objective(input_ids, position_ids=None, labels=None)`; `position_ids` that start again at 0 tell packed sequences apart.
Measuring goes through the same call (`measure=True`), so that a model whose weights are shared out gathers them for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.modeling import NHAForCausalLM
from nha_eval.hybridize.head_kl import CHUNK, head_kl
from nha_eval.hybridize.heldout import figures
from nha_eval.training.language import NextToken


class Objective(nn.Module):
    """A student and its teacher; `loss` is what a stage makes small."""

    # Alignment calls mixers by themselves.
    units = ("DecoderLayer", "Mixer")

    def __init__(self, student: NHAForCausalLM, teacher: NHAForCausalLM):
        super().__init__()
        self.student = student
        # In a list, so that it is not one of this module's own: it is neither saved nor moved nor trained.
        self._teacher = [teacher]
        self.config = student.config

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, labels: Tensor | None = None, measure: bool = False
    ) -> Tensor:
        """input_ids [B, T] -> the loss, a scalar in fp32; or, to measure, what `heldout.figures` gives."""
        if measure:
            return figures(self.student, self.teacher, input_ids)
        return self.loss(input_ids, position_ids, labels)

    @property
    def teacher(self) -> NHAForCausalLM:
        return self._teacher[0]


class Align(Objective):
    """Each windowed layer's attention output against the teacher's on the teacher's own hidden states, all layers in one pass:
    the mean over layers of |student - teacher|^2 / |teacher|^2."""

    def __init__(self, student: NHAForCausalLM, teacher: NHAForCausalLM, layers: list[int]):
        super().__init__(student, teacher)
        self.layers = layers

    def loss(self, input_ids: Tensor, position_ids: Tensor | None, labels: Tensor | None) -> Tensor:
        """input_ids [B, T] -> a scalar, fp32."""
        met: dict[int, tuple[tuple, Tensor]] = {}
        hooks = [
            self.teacher.decoder_layers[i].self_attn.register_forward_hook(
                lambda module, inputs, output, i=i: met.__setitem__(i, (inputs, output))
            )
            for i in self.layers
        ]
        try:
            with torch.no_grad():
                self.teacher.model(input_ids, position_ids=position_ids, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        losses = []
        for i in self.layers:
            (hidden, batch, *_), wanted = met.pop(i)
            found = self.student.decoder_layers[i].self_attn(hidden.to(_dtype_of(self.student)), batch)
            losses.append((found.float() - wanted.float()).square().sum() / wanted.float().square().sum())
        return torch.stack(losses).mean()


class DistillLogits(Objective):
    """KL(teacher || student) of the next token, in nats, the mean over positions."""

    def __init__(self, student: NHAForCausalLM, teacher: NHAForCausalLM, temperature: float = 1.0, top_k: int | None = None):
        super().__init__(student, teacher)
        self.temperature, self.top_k = temperature, top_k

    def loss(self, input_ids: Tensor, position_ids: Tensor | None, labels: Tensor | None) -> Tensor:
        """input_ids [B, T] -> a scalar, fp32, times temperature squared, so that gradients keep their size."""
        with torch.no_grad():
            taught = self.teacher.model(input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        found = self.student.model(input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        found, taught = found.flatten(0, 1), taught.flatten(0, 1)
        vocabulary = self.teacher.lm_head.out_features
        if self.top_k is None or self.top_k >= vocabulary:
            total = head_kl(found, taught, self.student.lm_head, self.teacher.lm_head, self.temperature)
        else:
            pieces = zip(found.split(CHUNK), taught.split(CHUNK), strict=True)
            total = torch.stack(
                [
                    torch.utils.checkpoint.checkpoint(self._top_kl, *piece, use_reentrant=False, preserve_rng_state=False)
                    for piece in pieces
                ]
            ).sum()
        return total / input_ids.numel() * self.temperature**2

    def _top_kl(self, student: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = F.log_softmax(self.teacher.lm_head(teacher).float() / self.temperature, -1)
        found = F.log_softmax(self.student.lm_head(student).float() / self.temperature, -1)
        wanted, found = _top(wanted, found, self.top_k)
        return F.kl_div(found, wanted, reduction="sum", log_target=True)


def _top(wanted: Tensor, found: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N, k + 1] of the teacher's k likeliest tokens, and of all the others together."""
    top, places = wanted.topk(k, -1)
    mine = found.gather(-1, places)
    return tuple(torch.cat([part, _rest(part)], -1) for part in (top, mine))


def _rest(logp: Tensor) -> Tensor:
    """log(1 - sum of exp(logp)), [N, 1]."""
    # A sum of 1 up to rounding leaves the others a small share, not none.
    held = torch.logsumexp(logp, -1, keepdim=True).clamp(max=-1e-6)
    return torch.log(-torch.expm1(held))


class LanguageModel(Objective):
    """Cross-entropy of the next token, in nats, as training from scratch takes it."""

    def __init__(self, student: NHAForCausalLM, teacher: NHAForCausalLM):
        super().__init__(student, teacher)
        # In a list as the teacher is: the student's weights are not this module's twice.
        self._next_token = [NextToken(student)]

    def loss(self, input_ids: Tensor, position_ids: Tensor | None, labels: Tensor | None) -> Tensor:
        """input_ids [B, T] -> a scalar; labels [B, T]: those that are -100 are not counted (None: all are)."""
        return self._next_token[0](input_ids, position_ids, labels)


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype
