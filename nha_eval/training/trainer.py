"""A Trainer that goes through its sequences in their own order, keeps what is trained alone, and goes on exactly where it was.

    trainer = StepTrainer(objective, settings, data, folder, callbacks=[...])
    trainer.run()                      # goes on from the last whole checkpoint in `folder`, if there is one

One device or several (`accelerate launch`, FSDP by its configuration). Weights in training are fp32; arithmetic is in `dtype`.
A checkpoint counts once `complete.json` lies in it, with the sizes of its files: one that a kill cut short is passed over. Its
weights and optimizer are whole, however many processes share them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from models.quiet import quiet_transformers
from nha_eval.errors import MachineError, UserError
from nha_eval.journal import write_atomic
from nha_eval.ranks import launched
from nha_eval.training.graphed import captured
from nha_eval.training.sharing import dealt_state, lay_into, set_sharing, whole_parameters, whole_state

Choice = TypeVar("Choice")
COMPLETE = "complete.json"
WEIGHTS = "model.safetensors"
# A loss of so many times its lowest is no noise.
DIVERGED = 10.0


class Diverged(MachineError):
    """The loss is no number any more, or has grown without end."""


class LossWatch:
    """Tells a loss that grows without end. least: in telling so, losses below it count as no lower."""

    def __init__(self, least: float):
        self.least, self.lowest = least, math.inf

    def wrong(self, loss: float) -> str | None:
        """What is wrong with the next of the losses; None where nothing is."""
        self.lowest = max(min(self.lowest, loss), self.least)
        if loss <= DIVERGED * self.lowest:
            return None
        return f"the loss has grown from {self.lowest:.3g} to {loss:.3g}"


@dataclass(frozen=True)
class Steps:
    """How a training goes. `rates`: the learning rate of parameters by a part of their name, the first that fits; "" is all."""

    count: int
    batch: int  # sequences a step, over all devices
    micro_batch: int  # sequences at a time on a device
    rates: dict[str, float]
    warmup: float = 0.0  # share of the steps
    schedule: str = "cosine"
    weight_decay: float = 0.0
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    save_every: int | None = 200  # steps; None: no checkpoint is written
    log_every: int = 10  # steps
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    # Whether a step may be captured once and done again as a CUDA graph: for objectives that take ids of one shape alone, in
    # which nothing but these and the weights changes. Without effect off a GPU, on several, or over several micro-batches.
    graph: bool = False
    # Losses below this count as no lower in telling divergence: near 0 noise is many times the lowest.
    least_loss: float = 0.0


def steps_of(settings: Any, device: torch.device, dtype: torch.dtype, **more: Any) -> Steps:
    """The steps of a spec's settings that every training has under the same names; `more` is what it has under its own. A
    micro-batch that is not given is what falls to a device."""
    named = {name: getattr(settings, name) for name in ("batch", "warmup", "schedule", "weight_decay", "clip", "save_every")}
    by = launched()
    micro_batch = settings.micro_batch or max(1, settings.batch // (1 if by is None else by.world))
    return Steps(micro_batch=micro_batch, device=str(device), dtype=dtype, **named, **more)


def drawn(choices: Sequence[Choice], seed: int, step: int) -> Choice:
    """One of the choices, by the seed and the step alone, so that a broken training goes on with the same ones."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return choices[int(torch.randint(len(choices), (), generator=generator))]


@dataclass
class OneDevice(TrainingArguments):
    """Transformers' arguments for a process that trains on the device `on`. Trainer itself would take the first GPU whatever is
    asked for, and a batch for each that it sees; several GPUs want `accelerate launch`.
    """

    on: str = "cpu"

    def __post_init__(self):
        super().__post_init__()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    @property
    def device(self) -> torch.device:
        _ = self._setup_devices  # which begins what several processes need
        return torch.device(self.on)

    @property
    def n_gpu(self) -> int:
        return min(super().n_gpu, 1)


def training_arguments(steps: Steps, folder: Path) -> TrainingArguments:
    """Transformers' arguments for these steps. UserError where the batch cannot be made of micro-batches on the devices."""
    common = {
        "output_dir": str(folder),
        "max_steps": steps.count,
        "per_device_train_batch_size": steps.micro_batch,
        "learning_rate": max(steps.rates.values()),
        "lr_scheduler_type": steps.schedule,
        "warmup_steps": math.ceil(steps.warmup * steps.count),
        "weight_decay": steps.weight_decay,
        "adam_beta1": steps.betas[0],
        "adam_beta2": steps.betas[1],
        "max_grad_norm": steps.clip,
        "logging_steps": steps.log_every,
        "logging_nan_inf_filter": False,
        "save_strategy": "no" if steps.save_every is None else "steps",
        "save_steps": steps.save_every or steps.count,
        "save_total_limit": 2,
        "bf16": steps.dtype == torch.bfloat16,
        "use_cpu": steps.device == "cpu",
        "on": steps.device,
        "seed": steps.seed,
        "data_seed": steps.seed,
        "disable_tqdm": True,
        "report_to": [],
        "remove_unused_columns": False,
        "label_names": [],
    }
    arguments = OneDevice(**common)
    at_once = steps.micro_batch * max(1, arguments.world_size)
    if steps.batch % at_once:
        raise UserError(
            f"a batch of {steps.batch} sequences is no multiple of {steps.micro_batch} at a time on {arguments.world_size} "
            "devices: change batch or micro_batch"
        )
    arguments.gradient_accumulation_steps = steps.batch // at_once
    return arguments


class StepTrainer(Trainer):
    """Trains what takes gradients of `objective`, a module called with a batch's tensors that gives the loss.

    `data`: a map dataset whose order is the training's. `before_step(step)` is called before each optimizer step; `collator`
    makes a batch of what `data` gives for its items.
    """

    def __init__(
        self,
        objective: nn.Module,
        steps: Steps,
        data: Dataset,
        folder: Path,
        *,
        callbacks: list[TrainerCallback] | None = None,
        before_step: Callable[[int], None] | None = None,
        collator: Callable[[Any], dict[str, torch.Tensor]] = default_data_collator,
    ):
        self.steps, self.folder, self.before_step = steps, folder, before_step
        self.trained = {name for name, p in objective.named_parameters() if p.requires_grad}
        self._finite: torch.Tensor | None = None
        self._watch = LossWatch(steps.least_loss)
        self._graphed: Callable[[torch.Tensor], torch.Tensor] | None = None
        config = getattr(objective, "config", None)
        cached = getattr(config, "use_cache", None)
        with quiet_transformers():
            super().__init__(
                model=objective,
                args=training_arguments(steps, folder),
                train_dataset=data,
                data_collator=collator,
                callbacks=callbacks,
            )
        if self.is_fsdp_enabled:
            set_sharing(self.accelerator.state.fsdp_plugin, getattr(objective, "units", ()))
        if cached is not None:
            # Trainer turns it off in the model's own configuration, and the model that is saved would generate without a cache.
            config.use_cache = cached
        # Its own line a log would stand beside those of the callbacks.
        for callback in list(self.callback_handler.callbacks):
            if type(callback).__name__ == "PrinterCallback":
                self.remove_callback(callback)

    def run(self) -> None:
        """All steps that are left. Raises Diverged where the loss is no number any more, or grows without end."""
        last = last_whole(self.folder)
        with quiet_transformers():
            self.train(resume_from_checkpoint=None if last is None else str(last))

    def trained_weights(self, keep: bool = True) -> dict[str, torch.Tensor]:
        """What is trained, by its name in the objective, whole and on the CPU. Of a launch that shares weights out all
        processes call it; those that do not `keep` get nothing.
        """
        return whole_parameters(self.model, self.trained, keep)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, with a group for each learning rate."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, p in (self.model if model is None else model).named_parameters():
            if p.requires_grad:
                rate = next(rate for part, rate in self.steps.rates.items() if part in name)
                groups.setdefault(rate, []).append(p)
        decay = self.steps.weight_decay
        self.optimizer = torch.optim.AdamW(
            [{"params": params, "lr": rate, "weight_decay": decay} for rate, params in groups.items()],
            betas=self.steps.betas,
            eps=1e-8,
            fused=self.steps.device != "cpu",
        )
        self.optimizer.register_load_state_dict_pre_hook(dealt_state)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs=False, num_items_in_batch=None):
        if self.is_fsdp_enabled:
            # Where weights are shared out accelerate leaves the forward pass as it is.
            with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
                return model(**inputs)
        if self._may_graph(inputs) and self._graphed is None:
            self._graphed = captured(self.model, inputs["input_ids"], self.steps.dtype)
            # What cannot be captured once is not tried again.
            self.steps = replace(self.steps, graph=self._graphed is not None)
        if not self._may_graph(inputs):
            return model(**inputs)
        # What a graph gives is overwritten by its next run.
        return self._graphed(inputs["input_ids"]).clone()

    def _may_graph(self, inputs: dict[str, Any]) -> bool:
        alone = self.args.world_size == 1 and self.args.gradient_accumulation_steps == 1
        return self.steps.graph and alone and self.args.device.type == "cuda" and inputs.keys() == {"input_ids"}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> torch.Tensor:
        if self.before_step is not None:
            self.before_step(self.state.global_step)
        loss = super().training_step(model, inputs, num_items_in_batch)
        finite = torch.isfinite(loss.detach())
        self._finite = finite if self._finite is None else self._finite & finite
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            self._check_finite()
            why = self._watch.wrong(float(logs["loss"]))
            if why is not None:
                raise Diverged(
                    f"{why} at step {self.state.global_step}: the training diverged; {self._kept()}: give a lower learning rate"
                )
        super().log(logs, start_time)

    def _check_finite(self) -> None:
        if self._finite is not None and not bool(self._finite):
            raise Diverged(
                f"the loss is no finite number at step {self.state.global_step}; {self._kept()}: give a lower learning rate"
            )

    def _kept(self) -> str:
        last = last_whole(self.folder)
        return "nothing was kept yet" if last is None else f"the last good state is kept in {last}"

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._check_finite()
        super()._save_checkpoint(model, trial)
        # Each process has a file of its own among them.
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            made = self.folder / f"checkpoint-{self.state.global_step}"
            sizes = {file.name: file.stat().st_size for file in sorted(made.iterdir())}
            write_atomic(made / COMPLETE, json.dumps(sizes) + "\n")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self.is_fsdp_enabled:
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """What is trained, by its name in the objective."""
        tensors = self.trained_weights(keep=self.args.should_save)
        if self.args.should_save:
            folder = Path(self.args.output_dir if output_dir is None else output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / WEIGHTS)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_state(self.optimizer, keep=self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            lay_into(self.model, load_file(Path(resume_from_checkpoint) / WEIGHTS))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # It is there as without sharing, and whole it may be too large for a GPU.
        on, self.args.on, self.is_fsdp_enabled = self.args.on, "cpu", False
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        finally:
            self.args.on, self.is_fsdp_enabled = on, True

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that are not trained are in no checkpoint."""
        assert not load_result.unexpected_keys and not self.trained & set(load_result.missing_keys), load_result


def last_whole(folder: Path) -> Path | None:
    """The latest checkpoint whose files are all there at their sizes."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in found if _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    try:
        sizes = json.loads((path / COMPLETE).read_text(encoding="utf-8"))
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False
