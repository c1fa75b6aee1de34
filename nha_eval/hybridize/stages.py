"""The stages of a hybrid, one after the other in one folder, each going on where it was broken off.

    from nha_eval.hybridize.stages import hybridize
    hybridize(spec, Path("results/runs/hybridize-x"))

The folder: `spec.yaml`, `environment.json`, `train.csv` (a row a log), `heldout.csv` and `positions.csv` (KL to the base and
perplexity on held-out text), `windows.csv` (the result at other windows) and `copying.csv` where these are asked for, `STAGE/`
(checkpoints, and `trained.safetensors` once the stage is done), `tensorboard/`, and the result: `model/`, what changed beside
the base's name, or with `train: full` a checkpoint by itself.
"""

from __future__ import annotations

import csv
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from rich.console import Console
from safetensors.torch import save_file
from transformers import TrainerCallback

from models.adapted import GATE_PARTS, base_folder, lay_over, load_adapted, save_adapted
from models.modeling import NHAForCausalLM
from models.quiet import quiet_transformers
from nha_eval import environment
from nha_eval.bench.machine import device_name, dtype_name, resolve_device
from nha_eval.errors import UserError
from nha_eval.hybridize.card import write_card
from nha_eval.hybridize.copying import COLUMNS as COPYING
from nha_eval.hybridize.copying import copying
from nha_eval.hybridize.heldout import Measured, heldout
from nha_eval.hybridize.objectives import Align, DistillLogits, LanguageModel, Objective
from nha_eval.hybridize.spec import STAGES, HybridSpec, Stage
from nha_eval.hybridize.student import Student, build_student, build_teacher, mark_trainable, round_frozen
from nha_eval.journal import plain, write_atomic
from nha_eval.plots import render, training_figure, write_bytes
from nha_eval.ranks import is_first
from nha_eval.text import Text, open_text
from nha_eval.text.self_text import write_self_text
from nha_eval.training.folder import training_folder
from nha_eval.training.progress import Log, tensorboard
from nha_eval.training.sharing import check_sharing, lay_into
from nha_eval.training.trainer import StepTrainer, drawn, steps_of

TRAINED = "trained.safetensors"
HELDOUT = ["stage", "step", "length", "tokens", "kl", "kl_stderr", "perplexity", "nll", "nll_stderr", "teacher_perplexity"]
POSITIONS = ["stage", "step", "length", "first", "last", "kl", "nll", "teacher_nll"]
WINDOWS = ["window", *HELDOUT[2:], "dtype", "device"]


@dataclass
class Run:
    """What the stages of one hybrid share."""

    spec: HybridSpec
    folder: Path
    student: Student
    teacher: NHAForCausalLM
    text: Text
    device: torch.device
    dtype: torch.dtype
    console: Console

    @property
    def model(self) -> NHAForCausalLM:
        return self.student.model

    def tokens_of_step(self, stage: Stage) -> int:
        return stage.batch * self.spec.text.length


def hybridize(spec: HybridSpec, folder: Path, console: Console | None = None) -> Path:
    """Goes through the stages that are left and returns the folder of the hybrid. Raises UserError, ModelUnavailable or
    MachineError; what was trained until then is kept.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True, quiet=not is_first())
    check_sharing()
    device, dtype = resolve_device(spec.device, spec.dtype)
    with training_folder(folder, spec.deciding()):
        console.print(f"converting {spec.base}", markup=False)
        student = _new_student(spec, device, dtype)
        teacher = build_teacher(student, spec, dtype)
        text = _text(spec, folder, teacher)
        run = Run(spec, folder, student, teacher, text, device, dtype, console)
        if is_first() and not _all_trained(run):
            _record(run)
        measured = _Heldout(run)
        if not measured.has("conversion", 0):
            measured.take("conversion", 0, Objective(student.model, teacher))
        _copies(run, "conversion")
        first = 0
        for name in STAGES:
            stage = getattr(spec, name)
            if stage is not None:
                first = _stage(run, name, stage, first, measured)
                _copies(run, name)
        made = _finish(run)
        _at_windows(run)
        return made


def _new_student(spec: HybridSpec, device: torch.device, dtype: torch.dtype) -> Student:
    student = build_student(spec)
    if dtype != torch.float32:
        round_frozen(student, spec, dtype)
    student.model.to(device)
    return student


@torch.no_grad()
def _in_full(run: Run) -> NHAForCausalLM:
    """The student with the base's own weights where nothing was trained, which may have been rounded."""
    made = build_student(run.spec).model
    found = dict(run.model.named_parameters())
    for name, p in made.named_parameters():
        if p.requires_grad:
            p.copy_(found[name])
    return made


def _text(spec: HybridSpec, folder: Path, teacher: NHAForCausalLM) -> Text:
    """The spec's text, with what the teacher writes itself among it where that is asked for."""
    tokenizer = _tokenizer(spec)
    text = open_text(spec.text, tokenizer)
    own = spec.self_text
    if own is None:
        return text
    path = folder / "self-text.jsonl"
    prefixes = (
        {} if own.prefix_tokens is None else {"prefixes": text.tokens.splits["train"], "prefix_tokens": own.prefix_tokens}
    )
    settings = {"documents": own.documents, "length": own.length, "batch": own.batch, "seed": spec.seed}
    # The first process of a launch that comes writes it, and the others find it written.
    with FileLock(folder / ".self-text.lock"):
        write_self_text(teacher, tokenizer, path, **settings, **prefixes)
    return open_text(spec.text.model_copy(update={"self_text": str(path)}), tokenizer)


def _tokenizer(spec: HybridSpec) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base_folder(spec.base), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise UserError(
            f"base {spec.base!r} has no tokenizer that can be read ({reason}): give a whole checkpoint"
        ) from problem


def _record(run: Run) -> None:
    spec = run.spec
    about = {
        "command": environment.command_line(),
        **environment.describe(),
        "seed": spec.seed,
        "device": torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else environment.cpu_name(),
        "dtype": str(run.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "text": run.text.about,
    }
    write_atomic(run.folder / "environment.json", json.dumps(plain(about), indent=1) + "\n")


def _all_trained(run: Run) -> bool:
    """Whether nothing is left but to measure: what says where and how it was trained is there then, and stays."""
    wanted = [name for name in STAGES if getattr(run.spec, name) is not None]
    kept = [run.folder / name / TRAINED for name in wanted] + [run.folder / "environment.json"]
    return bool(wanted) and all(path.exists() for path in kept)


def _stage(run: Run, name: str, stage: Stage, first: int, measured: _Heldout) -> int:
    """Train one stage, or take what it left; the number of the first sequence that the next may read."""
    spec = run.spec
    count = stage.tokens // run.tokens_of_step(stage)
    after = first + count * stage.batch
    done = run.folder / name / TRAINED
    if done.exists():
        lay_over(run.model, done, mark_trainable(run.student, spec, aligning=name == "align"))
        run.console.print(f"{name}: done already", markup=False)
        return after
    kept, parted = _train(run, name, stage, first, count, measured)
    if parted:
        # Nothing takes a model's parts back in place.
        gc.collect()
        run.student = _new_student(spec, run.device, run.dtype)
        lay_into(run.model, kept)
    run.model.eval()
    if is_first():
        partial = done.with_suffix(".partial")
        save_file(kept, partial)
        partial.replace(done)
    return after


def _train(
    run: Run, name: str, stage: Stage, first: int, count: int, measured: _Heldout
) -> tuple[dict[str, torch.Tensor], bool]:
    """Goes through a stage's steps; what it trained, by its name in the student, and whether this left the student in parts."""
    spec = run.spec
    objective, trained = _objective(run, name, stage)
    if not trained:
        raise UserError(f"{name}: nothing to train, as every layer has a full window: leave the stage out")
    steps = steps_of(
        stage,
        run.device,
        run.dtype,
        count=count,
        rates=dict.fromkeys(GATE_PARTS, stage.gate_learning_rate) | {"": stage.learning_rate},
        log_every=max(1, min(10, count // 20)),
        seed=spec.seed,
        graph=spec.cuda_graph and not spec.window_jitter,
        # At full windows a student begins as its teacher: a loss of nothing, against which any other would be divergence.
        least_loss=1.0 if "full" in spec.window_jitter else 0.0,
    )
    callbacks: list[TrainerCallback] = [
        Log(name, run.folder / "train.csv", run.tokens_of_step(stage), run.console),
        *tensorboard(run.folder / "tensorboard" / name),
    ]
    data = _Span(run.text.training(first + count * stage.batch), first)
    trainer = StepTrainer(objective, steps, data, run.folder / name, callbacks=callbacks, before_step=_jitter(run))
    trainer.add_callback(_Measure(name, stage.heldout_every, measured, trainer, run))
    if is_first():
        (run.folder / "windows.csv").unlink(missing_ok=True)
    trainer.run()
    kept = {key.removeprefix("student."): tensor for key, tensor in trainer.trained_weights().items()}
    return kept, trainer.is_fsdp_enabled


def _objective(run: Run, name: str, stage: Stage) -> tuple[Objective, list[str]]:
    aligning = name == "align"
    trained = mark_trainable(run.student, run.spec, aligning)
    if aligning:
        return Align(run.model, run.teacher, run.student.windowed), trained
    if name == "distill":
        return DistillLogits(run.model, run.teacher, stage.temperature, stage.top_k), trained
    return LanguageModel(run.model, run.teacher), trained


def _jitter(run: Run) -> Callable[[int], None] | None:
    """Sets the windowed layers to a window drawn from the spec's for each step, by the seed and the step alone."""
    spec = run.spec
    if not spec.window_jitter:
        return None

    def before_step(step: int) -> None:
        window = drawn(spec.window_jitter, spec.seed, step)
        run.model.set_window(None if window == "full" else int(window), layers=run.student.windowed)

    return before_step


class _Span(torch.utils.data.Dataset):
    """Sequences from number `first` on, so that no stage reads what another has read."""

    def __init__(self, sequences: Any, first: int):
        self.sequences, self.first = sequences, first

    def __len__(self) -> int:
        return len(self.sequences) - self.first

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return self.sequences[self.first + i]


class _Measure(TrainerCallback):
    """Takes the held-out figures every so many steps, and at the end."""

    def __init__(self, stage: str, every: int, measured: _Heldout, trainer: StepTrainer, run: Run):
        self.stage, self.every, self.measured, self.trainer, self.run = stage, every, measured, trainer, run

    def on_train_begin(self, args, state, control, **kwargs):
        self.measured.forget(self.stage, state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        if step % self.every == 0 or step == state.max_steps:
            windows = list(self.run.model.config.windows)
            _set_windows(self.run)
            self.measured.take(self.stage, step, self.trainer.model_wrapped)
            for layer, window in enumerate(windows):
                self.run.model.set_window(window, layers=[layer])


class _Heldout:
    """heldout.csv and positions.csv: KL and perplexity at steps of stages."""

    def __init__(self, run: Run):
        self.run = run
        self.files = {run.folder / "heldout.csv": HELDOUT, run.folder / "positions.csv": POSITIONS}

    def has(self, stage: str, step: int) -> bool:
        lengths = {
            row["length"] for row in _rows(self.run.folder / "heldout.csv") if (row["stage"], row["step"]) == (stage, str(step))
        }
        return lengths == {str(length) for length in self.run.spec.heldout.lengths}

    def forget(self, stage: str, beyond: int) -> None:
        """Drop a stage's rows of later steps, which are gone through again."""
        if not is_first():
            return
        for path in self.files:
            rows = [row for row in _rows(path) if row["stage"] != stage or int(row["step"]) <= beyond]
            _write(path, self.files[path], rows)

    def take(self, stage: str, step: int, objective: torch.nn.Module) -> list[Measured]:
        run, found = self.run, []
        was_training = objective.training
        objective.eval()
        for length in run.spec.heldout.lengths:
            measured = _measured(run, objective, length)
            found.append(measured)
            self._add(stage, step, length, measured)
            _tell(run, f"{stage} {step}", length, measured)
        objective.train(was_training)
        return found

    def _add(self, stage: str, step: int, length: int, measured: Measured) -> None:
        if not is_first():
            return
        place = {"stage": stage, "step": step, "length": length}
        figures = {name: getattr(measured, name) for name in HELDOUT[3:]}
        for path, rows in (
            (self.run.folder / "heldout.csv", [{**place, **figures}]),
            (
                self.run.folder / "positions.csv",
                [{**place, **dict(zip(POSITIONS[3:], row, strict=True))} for row in measured.positions],
            ),
        ):
            same = {"stage": stage, "step": str(step), "length": str(length)}
            kept = [row for row in _rows(path) if any(row[key] != value for key, value in same.items())]
            _write(path, self.files[path], [*kept, *rows])


def _measured(run: Run, objective: torch.nn.Module, length: int) -> Measured:
    """On the held-out sequences of a length, in the run's precision."""
    sequences = run.text.heldout(length, max(1, run.spec.heldout.tokens // length))
    with torch.autocast(run.device.type, run.dtype, enabled=run.dtype != torch.float32):
        return heldout(lambda ids: objective(ids, measure=True), (sequences[i] for i in range(len(sequences))), run.device)


def _tell(run: Run, where: str, length: int, found: Measured) -> None:
    run.console.print(
        f"{where}: held-out KL {found.kl:.4f} ± {found.kl_stderr:.4f}, perplexity {found.perplexity:.2f} "
        f"(base {found.teacher_perplexity:.2f}) at {length} tokens",
        markup=False,
    )


def _at_windows(run: Run) -> None:
    """windows.csv: the result at the windows of `heldout.windows`, full layers as they are."""
    path, wanted = run.folder / "windows.csv", run.spec.heldout
    if not wanted.windows:
        return
    if not run.student.windowed:
        run.console.print("heldout.windows: not measured, as every layer has a full window", markup=False)
        return
    rows = _rows(path)
    where = {"dtype": dtype_name(run.dtype), "device": device_name(run.device)}
    done = {(row["window"], row["length"]) for row in rows}
    objective = Objective(run.model, run.teacher).eval()
    for window in wanted.windows:
        run.model.set_window(None if window == "full" else int(window), layers=run.student.windowed)
        for length in wanted.lengths:
            if (str(window), str(length)) in done:
                continue
            done.add((str(window), str(length)))
            found = _measured(run, objective, length)
            _tell(run, f"window {window}", length, found)
            rows.append({"window": window, "length": length, **{name: getattr(found, name) for name in HELDOUT[3:]}, **where})
            if is_first():
                _write(path, WINDOWS, rows)
    _set_windows(run)


def _copies(run: Run, stage: str) -> None:
    """copying.csv: how a passage that comes again is foretold, as the student stands after a stage."""
    wanted = run.spec.copying
    if wanted is None:
        return
    path = run.folder / "copying.csv"
    kept = _rows(path)
    own = {(row["distance"], row.get("passage"), row["sequences"]) for row in kept if row["stage"] == stage}
    if own == {(str(distance), str(wanted.passage), str(wanted.sequences)) for distance in wanted.distances}:
        return
    _set_windows(run)
    tokens = run.text.tokens.splits["heldout"]
    found = copying(run.model, run.teacher, tokens, wanted, seed=run.spec.seed, device=run.device, dtype=run.dtype)
    for row in found:
        run.console.print(
            f"{stage}: {row['right']:.3f} ± {row['right_stderr']:.3f} of a passage met again after {row['distance']} tokens "
            f"is foretold (base {row['base']:.3f}, {row['control']:.3f} where it had not come)",
            markup=False,
        )
    if not is_first():
        return
    _write(path, COPYING, [row for row in kept if row["stage"] != stage] + [{"stage": stage, **row} for row in found])


def _set_windows(run: Run) -> None:
    for layer, window in enumerate(run.spec.windows_of(len(run.model.config.windows))):
        run.model.set_window(window, layers=[layer])


def _rows(path: Path) -> list[dict[str, str]]:
    """Of a table; none where it is not there yet."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    lines = [",".join(columns), *(",".join(_shown(row.get(column, "")) for column in columns) for row in rows)]
    write_atomic(path, "\n".join(lines) + "\n")


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _finish(run: Run) -> Path:
    """Write the hybrid and its card."""
    spec, out = run.spec, run.folder / "model"
    model, student = run.model, run.student
    _set_windows(run)
    if not is_first():
        return out
    if spec.train != "full":
        mark_trainable(student, spec)
        apart = run.folder / "apart" if spec.merge else out
        save_adapted(model, apart, base=spec.base, lora=student.lora, gate_scale=spec.gate.scale)
        if spec.merge:
            model = load_adapted(apart)
    elif run.dtype != torch.float32:
        model = _in_full(run)
    if spec.train == "full" or spec.merge:
        with quiet_transformers():
            model.save_pretrained(out)
        _tokenizer(spec).save_pretrained(out)
    write_card(out, spec, run.folder)
    picture = training_figure({run.folder.name.removeprefix("hybridize-"): run.folder})
    for kind in ("svg", "png"):
        write_bytes(run.folder / f"training.{kind}", render(picture, kind))
    write_bytes(out / "training.png", render(picture, "png"))
    return out
