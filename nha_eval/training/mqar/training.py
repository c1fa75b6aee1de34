"""One MQAR training: a small model, its steps, its accuracy on the selection split, and in the end on the test split.

train_cell(spec, cell, folder) -> {"status": "ok", "selection": 0.998, "rows": [...], ...}
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import TrainerCallback

from models.modeling import NHAForCausalLM
from nha_eval.bench.machine import resolve_device
from nha_eval.errors import is_out_of_memory, one_line
from nha_eval.training.mqar.cells import OWN, Cell, mqar_config
from nha_eval.training.mqar.data import Batches, split_on
from nha_eval.training.mqar.spec import MqarSpec
from nha_eval.training.trainer import Diverged, Steps, StepTrainer

SELECTED = "selection_accuracy"
EVALUATED = 2**27  # logits at a time
# The cross-entropy below which noise counts as no divergence, in nats.
LEAST_LOSS = 1.0


class Recall(nn.Module):
    """A model asked at places of a sequence: the cross-entropy of the answers, or whether they are right."""

    def __init__(self, model: NHAForCausalLM):
        super().__init__()
        self.model = model
        self.config = model.config

    def logits(self, input_ids: Tensor, places: Tensor) -> Tensor:
        """input_ids [B, T], places [B, P] -> [B, P, vocabulary]: no others are made."""
        hidden = self.model.model(input_ids, use_cache=False)
        asked = hidden.last_hidden_state.gather(1, places[..., None].expand(-1, -1, self.config.hidden_size))
        self.aux_loss = hidden.aux_loss
        return self.model.lm_head(asked)

    def forward(self, input_ids: Tensor, places: Tensor, answers: Tensor) -> Tensor:
        """The mean cross-entropy in nats, a scalar; answers [B, P]."""
        loss = F.cross_entropy(self.logits(input_ids, places).flatten(0, 1).float(), answers.flatten())
        return loss if self.aux_loss is None else loss + self.config.aux_loss * self.aux_loss

    @torch.no_grad()
    def accuracy(self, parts: dict[str, Tensor], dtype: torch.dtype) -> float:
        """The share of all queries of `data.split_on` whose likeliest token is the answer."""
        was_training = self.training
        self.eval()
        places = parts["places"]
        right = torch.zeros((), dtype=torch.long, device=places.device)
        rows = max(1, EVALUATED // (places.shape[1] * self.config.vocab_size))
        for begin in range(0, len(places), rows):
            batch = {name: x[begin : begin + rows].long() for name, x in parts.items()}
            with torch.autocast(places.device.type, dtype, enabled=dtype != torch.float32):
                right += (self.logits(batch["input_ids"], batch["places"]).argmax(-1) == batch["answers"]).sum()
        self.train(was_training)
        return int(right) / parts["answers"].numel()


class _Select(TrainerCallback):
    """Measures on the selection split every so many steps, keeps it in the trainer's history, and stops where it is enough."""

    def __init__(self, measure, every: int, stop_at: float | None):
        self.measure, self.every, self.stop_at = measure, every, stop_at

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        accuracy = self.measure()
        state.log_history.append({"step": state.global_step, SELECTED: accuracy})
        if self.stop_at is not None and accuracy >= self.stop_at:
            control.should_training_stop = True


def build(spec: MqarSpec, cell: Cell) -> NHAForCausalLM:
    """The cell's model, its weights drawn by the cell's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        return NHAForCausalLM(mqar_config(spec, cell.shape, cell.task.longest))


def train_cell(spec: MqarSpec, cell: Cell, folder: Path) -> dict[str, Any]:
    """The record of a training; checkpoints lie in `folder` until it is done. Going out of memory and diverging are results."""
    began = time.monotonic()
    try:
        record = _trained(spec, cell, folder)
    except Exception as problem:
        if not (is_out_of_memory(problem) or isinstance(problem, Diverged)):
            raise
        record = {"status": "oom" if is_out_of_memory(problem) else "error", "reason": one_line(problem), "rows": []}
    shutil.rmtree(folder, ignore_errors=True)
    return {**record, "seconds": round(time.monotonic() - began, 3)}


def _trained(spec: MqarSpec, cell: Cell, folder: Path) -> dict[str, Any]:
    device, dtype = resolve_device(spec.device, spec.dtype)
    model = build(spec, cell).to(device)
    objective = Recall(model)
    data = Batches(spec, cell.task, cell.seed)
    steps = Steps(
        count=data.steps,
        batch=spec.batch,
        micro_batch=spec.batch,
        rates={"": cell.rate},
        warmup=spec.warmup,
        schedule=spec.schedule,
        weight_decay=spec.weight_decay,
        clip=spec.clip,
        betas=(0.9, 0.999),
        save_every=spec.save_every,
        log_every=log_every(data.steps),
        seed=cell.seed,
        device=str(device),
        dtype=dtype,
        least_loss=LEAST_LOSS,
    )
    trainer = StepTrainer(objective, steps, data, folder, collator=dict)
    measure = partial(selection_accuracy, spec, cell, objective, dtype)
    trainer.add_callback(_Select(measure, spec.select_every or data.of_epoch, spec.stop_at))
    trainer.run()
    history = [(log["step"], log[SELECTED]) for log in trainer.state.log_history if SELECTED in log]
    return {
        "status": "ok",
        "reason": "",
        "steps": trainer.state.global_step,
        "stopped_early": trainer.state.global_step < data.steps,
        "selection": history[-1][1],
        "history": history,
        "losses": [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log],
        "backend": model.backend(),
        "rows": measured_rows(spec, cell, objective, dtype),
    }


def log_every(steps: int) -> int:
    """Steps whose losses are one figure of the record, of so many in all."""
    return max(1, min(50, steps // 10))


def selection_accuracy(spec: MqarSpec, cell: Cell, objective: Recall, dtype: torch.dtype) -> float:
    """The mean over the kinds that are asked, on the selection split."""
    asked = cell.task.asked
    device = objective.model.device
    parts = (split_on(device, spec, "selection", kind, spec.selection_examples) for kind in asked)
    return sum(objective.accuracy(part, dtype) for part in parts) / len(asked)


def measured_rows(spec: MqarSpec, cell: Cell, objective: Recall, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Accuracy a split, kind and window: the selection split, and the test split where the cell is tested."""
    model, rows = objective.model, []
    own = list(model.config.windows)
    has = [layer for layer, each in enumerate(model.decoder_layers) if each.self_attn.has_window]
    moved = [layer for layer in has if own[layer] is not None] or has
    examples = {"selection": spec.selection_examples} | ({"test": spec.test_examples} if cell.tested else {})
    for window in (OWN, *(cell.shape.test_windows if cell.tested else ())):
        if window != OWN:
            # A hybrid's full layers stay full.
            model.set_window(None if window == "full" else int(window), layers=moved)
        for split, count in examples.items():
            for kind in cell.task.asked:
                parts = split_on(model.device, spec, split, kind, count)
                rows.append(
                    {
                        "split": split,
                        "length": kind.length,
                        "pairs": kind.pairs,
                        "window": window,
                        "accuracy": objective.accuracy(parts, dtype),
                        "n": parts["answers"].numel(),
                        "state_elements": model.state_elements(cell.task.longest),
                        "state_bytes": model.state_bytes(1, cell.task.longest),
                    }
                )
        for layer in moved:
            model.set_window(own[layer], layers=[layer])
    return rows
