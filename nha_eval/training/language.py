"""A language model trained from scratch, in one folder, going on where it was broken off.

    from nha_eval.training.language import train_language
    train_language(spec, Path("results/runs/train-x"))

The folder: `spec.yaml`, `environment.json`, `train.csv` (a row a log), `heldout.csv` (perplexity on held-out text),
`checkpoints/`, `tensorboard/`, and the result: `model/`, with its tokenizer.
"""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from transformers import TrainerCallback

from models.configuration import NHAConfig
from models.convert import OWN_FIELDS
from models.layers import plain as plain_linear
from models.modeling import NHAForCausalLM
from models.patterns import CONTEXT
from models.presets import pattern_config, preset_config
from models.quiet import quiet_transformers
from models.tokenizer import VOCABULARY, byte_tokenizer
from nha_eval import environment, hub
from nha_eval.bench.machine import device_name, resolve_device
from nha_eval.errors import UserError
from nha_eval.journal import plain, write_atomic
from nha_eval.paths import user_path
from nha_eval.ranks import is_first
from nha_eval.text import TextSpec, open_text
from nha_eval.text.stream import open_stream
from nha_eval.training.flops import forward_flops, peak_flops, weights_of
from nha_eval.training.folder import training_folder
from nha_eval.training.head_loss import IGNORED, head_loss
from nha_eval.training.progress import Log, tensorboard
from nha_eval.training.sharing import check_sharing, lay_into
from nha_eval.training.spec import TrainSpec
from nha_eval.training.trainer import Steps, StepTrainer, steps_of

STAGE = "train"
OWN_TOKENIZER = "bpe:"
HELDOUT = ["step", "length", "tokens", "perplexity", "nll", "nll_stderr"]


def chunk_of(vocabulary: int) -> int:
    """Positions whose logits are held at once: 2,048 at 32,000 tokens, more of fewer."""
    return 2048 * max(1, 2**15 // vocabulary)


class NextToken(nn.Module):
    """A model and the cross-entropy of its next token, in nats."""

    units = ("DecoderLayer",)

    def __init__(self, model: NHAForCausalLM):
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(
        self, input_ids: Tensor, position_ids: Tensor | None = None, labels: Tensor | None = None, each: bool = False
    ) -> Tensor:
        """input_ids [B, T] -> the mean over what is foretold, a scalar in fp32; or with `each` every token's, [B, T - 1].

        labels [B, T]: those that are -100 are not counted (None: all are); position_ids that start again at 0 tell packed
        sequences apart.
        """
        outputs = self.model.model(input_ids, position_ids=position_ids, use_cache=False)
        labels = input_ids if labels is None else labels
        hidden, wanted = outputs.last_hidden_state[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        chunk = chunk_of(self.config.vocab_size)
        head = self.model.lm_head
        # Its weight is read past the module, which something may stand around or listen to, or hold in another form.
        bare = plain_linear(head) and type(head.weight) in (nn.Parameter, Tensor) and head.bias is None
        if not each and hidden.requires_grad and bare:
            total = head_loss(hidden, head.weight, wanted, chunk)
        else:
            pieces = zip(hidden.split(chunk), wanted.split(chunk), strict=True)
            # The logits of a vocabulary are the largest tensors there are: made anew in the backward pass, not kept.
            again = {"use_reentrant": False, "preserve_rng_state": False}
            losses = torch.cat([torch.utils.checkpoint.checkpoint(self._losses, *piece, **again) for piece in pieces])
            if each:
                return losses.view(len(labels), -1)
            total = losses.sum()
        loss = total / (wanted != IGNORED).sum().clamp(min=1)
        return loss if outputs.aux_loss is None else loss + self.config.aux_loss * outputs.aux_loss

    def _losses(self, hidden: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(self.model.lm_head(hidden).float(), wanted, reduction="none", ignore_index=IGNORED)


def config_of(spec: TrainSpec, vocabulary: int) -> NHAConfig:
    """The model's configuration. Raises UserError for a preset or pattern that there is none of, or sizes that do not fit."""
    try:
        if spec.model is not None:
            config = preset_config(spec.model)
        else:
            sizes = spec.sizes.model_dump(exclude={"pattern"}, exclude_none=True)
            more = {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT}
            config = pattern_config(spec.sizes.pattern, sizes | more)
        if spec.window is not None:
            window = None if spec.window == "full" else int(spec.window)
            fields = {key: value for key, value in config.to_dict().items() if key not in OWN_FIELDS}
            if all(own is None for own in config.windows):
                raise ValueError("window is given, but no layer of this model has one to set; leave it out")
            config = NHAConfig(**{**fields, "windows": [None if own is None else window for own in config.windows]})
        weights_of(config)
    except ValueError as problem:
        raise UserError(f"this model cannot be made: {problem}") from problem
    if config.vocab_size < vocabulary:
        raise UserError(
            f"the tokenizer {spec.tokenizer} has {vocabulary} tokens, the model {config.vocab_size}: give another tokenizer, "
            "or sizes of your own"
        )
    return config


def tokenizer_of(spec: TrainSpec) -> tuple[Any, int]:
    """(the tokenizer, how many tokens it has). Raises UserError where it cannot be had."""
    return named_tokenizer(spec.tokenizer, spec.text)


def named_tokenizer(name: str, text: TextSpec | None) -> tuple[Any, int]:
    """As `tokenizer_of`, of a spec's `tokenizer`; text: what one of its own is made of."""
    if name == "bytes":
        return byte_tokenizer(CONTEXT), VOCABULARY
    if name.startswith(OWN_TOKENIZER):
        size = name.removeprefix(OWN_TOKENIZER)
        if not (size.isdecimal() and len(size) < 10):
            raise UserError(f"tokenizer {name!r}: wanted is bpe:N, such as bpe:16384")
        if text is None:
            raise UserError(
                f"tokenizer {name!r} is made of the spec's text, and a stream is read as it comes: give another one"
            )
        from nha_eval.text.own_tokenizer import own_tokenizer

        return own_tokenizer(text, int(size)), int(size)
    from transformers import AutoTokenizer

    folder = user_path(name, "tokenizer", "give bytes, bpe:N, a folder or a hub id")
    if not folder.exists():
        answers, word = hub.reachable()
        if not answers:
            raise UserError(
                f"tokenizer {name!r} is no folder, and the hub cannot be reached ({word}): give bytes, or its folder"
            )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as problem:
        # The readers of a tokenizer's files raise whatever they meet.
        reason = " ".join(str(problem).split())[:200]
        raise UserError(f"tokenizer {name!r} cannot be had: {reason}; give bytes, bpe:N, a folder or a hub id") from problem
    return tokenizer, len(tokenizer)


def train_language(spec: TrainSpec, folder: Path, console: Console | None = None) -> Path:
    """Trains what is left and returns the folder of the model. Raises UserError or MachineError; what was trained is kept."""
    console = console or Console(stderr=True, highlight=False, soft_wrap=True, quiet=not is_first())
    check_sharing()
    device, dtype = resolve_device(spec.device, spec.dtype)
    tokenizer, vocabulary = tokenizer_of(spec)
    config = config_of(spec, vocabulary)
    with training_folder(folder, spec.settings()):
        items = spec.steps * spec.batch
        if spec.stream is not None:
            data = text = open_stream(spec.stream, tokenizer, items, folder)
        else:
            text = open_text(spec.text, tokenizer)
            data = text.training(items)
        heldout = text.heldout(spec.length, max(1, spec.heldout_tokens // spec.length))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            model = NHAForCausalLM(config)
        if is_first():
            _record(spec, folder, device, dtype, text.about)
        if spec.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        objective = NextToken(model.to(device))
        flops = 3 * forward_flops(config, weights_of(config), spec.length)
        peak = peak_flops(device_name(device), dtype)
        peak = None if peak is None else peak * int(os.environ.get("WORLD_SIZE", "1"))
        log = Log(STAGE, folder / "train.csv", spec.tokens_of_step, console, flops=flops, peak=peak)
        trainer = StepTrainer(
            objective, _steps(spec, device, dtype), data, folder / "checkpoints",
            callbacks=[log, *tensorboard(folder / "tensorboard")],
        )  # fmt: skip
        trainer.add_callback(_Measure(trainer, heldout, spec.heldout_every, folder / "heldout.csv", device, dtype, console))
        trainer.run()
        first = trainer.is_world_process_zero()
        if trainer.is_fsdp_enabled:
            weights = trainer.trained_weights(keep=first)
            if first:
                model = NHAForCausalLM(config)
                lay_into(NextToken(model), weights)
        if first:
            with quiet_transformers():
                model.save_pretrained(folder / "model")
                tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def _steps(spec: TrainSpec, device: torch.device, dtype: torch.dtype) -> Steps:
    own = {"count": spec.steps, "rates": {"": spec.learning_rate}, "seed": spec.seed}
    return steps_of(spec, device, dtype, log_every=max(1, min(10, spec.steps // 20)), **own)


def _record(spec: TrainSpec, folder: Path, device: torch.device, dtype: torch.dtype, text: dict[str, Any]) -> None:
    about = {
        "command": environment.command_line(),
        **environment.describe(),
        "seed": spec.seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else environment.cpu_name(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "text": text,
    }
    write_atomic(folder / "environment.json", json.dumps(plain(about), indent=1) + "\n")


class _Measure(TrainerCallback):
    """Perplexity on held-out sequences every so many steps and at the end, a row each in heldout.csv."""

    def __init__(self, trainer: StepTrainer, heldout: Any, every: int, path: Path, device, dtype, console: Console):
        self.trainer, self.heldout, self.every, self.path = trainer, heldout, every, path
        self.device, self.dtype, self.console = device, dtype, console

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        # Rows of steps beyond a broken run's last checkpoint, which are gone through again.
        self._write([row for row in self._rows() if int(row["step"]) <= state.global_step])

    @torch.no_grad()
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        model = self.trainer.model_wrapped
        model.eval()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            sequences = (self.heldout[i]["input_ids"][None].to(self.device) for i in range(len(self.heldout)))
            losses = torch.cat([model(ids, each=True) for ids in sequences]).double().cpu()
        model.train()
        nll, rows = losses.mean().item(), losses.mean(1)
        spread = rows.std().item() / len(rows) ** 0.5 if len(rows) > 1 else math.nan
        if not state.is_world_process_zero:
            return
        figures = {"perplexity": math.exp(min(nll, 700.0)), "nll": nll, "nll_stderr": spread}
        row = {"step": state.global_step, "length": losses.shape[1] + 1, "tokens": losses.numel()}
        self._write([*self._rows(), {**row, **{key: f"{value:.6g}" for key, value in figures.items()}}])
        self.console.print(
            f"{STAGE} {state.global_step}: held-out perplexity {figures['perplexity']:.2f} at {row['length']} tokens",
            markup=False,
        )

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        lines = [",".join(HELDOUT), *(",".join(str(row[column]) for column in HELDOUT) for row in rows)]
        write_atomic(self.path, "\n".join(lines) + "\n")
