"""The model to be trained and the one it learns from.

The student is the base converted in memory, with LoRA over its projections where the spec asks for it; what is trained takes
gradients, all else takes none. The teacher is the base itself, frozen; weights that both keep are one tensor, so that a teacher
costs no more memory than what the student changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from models.adapted import GATE_PARTS, PROJECTIONS, Lora, add_lora, base_folder
from models.convert import convert_pretrained
from models.modeling import NHAForCausalLM
from nha_eval.errors import UserError
from nha_eval.hybridize.spec import HybridSpec


@dataclass(frozen=True)
class Student:
    """`model` with what is trainable of it; `tuner` is PEFT's, None without LoRA."""

    model: NHAForCausalLM
    tuner: object
    lora: Lora
    windowed: list[int]  # layers whose window is no full one


def build_student(spec: HybridSpec) -> Student:
    """The base of the spec as the hybrid it asks for, in fp32, on the CPU, its gates at their start.

    Raises UserError for windows, layers or slots that the base cannot have, ModelUnavailable for a base that cannot be had.
    """
    folder = base_folder(spec.base)
    layers = _layers_of(folder)
    options = {}
    if spec.mixer == "nha":
        gate = spec.gate
        options = {
            "num_slots": spec.num_slots,
            "gate_scale": gate.scale,
            "gate_bias_init": gate.bias,
            "gate_horizons": None if gate.horizons is None else list(gate.horizons),
            "gate_activation": gate.activation,
            "gate_logit_normalizer": gate.normalizer,
            "empty_slots": spec.empty_slots,
            "slot_logits": spec.slot_logits,
            "slot_bias_init": spec.slot_bias,
        }
    windows = spec.windows_of(layers)
    try:
        with torch.random.fork_rng(devices=[]):
            # What LoRA starts from is drawn, and by nothing else than the seed.
            torch.manual_seed(spec.seed)
            model = convert_pretrained(folder, mixer=spec.mixer, windows=windows, **options)
            windowed = [i for i, window in enumerate(windows) if window is not None]
            lora = Lora(spec.lora.rank, spec.lora.alpha, tuple(spec.lora.targets)) if spec.train == "lora" else Lora()
            tuner = add_lora(model, lora, list(range(layers)) if spec.train_full_layers else windowed)
    except ValueError as problem:
        if type(problem) is ValueError:
            raise UserError(f"this hybrid cannot be made of {spec.base}: {problem}") from problem
        raise
    student = Student(model, tuner, lora, windowed)
    mark_trainable(student, spec)
    return student


def _layers_of(folder: Path) -> int:
    from models.convert import read_config
    from models.folder import check_folder

    return read_config(check_folder(folder)).num_hidden_layers


def mark_trainable(student: Student, spec: HybridSpec, aligning: bool = False) -> list[str]:
    """Turns gradients on for what the spec trains, off for all else; the names of what is trained.

    Layers with a full window have gates too, which nothing passes through: they stay as they start. While `aligning`, such
    layers are the teacher's already, and none of their weights is trained.
    """
    trained = []
    for name, p in student.model.named_parameters():
        p.requires_grad_(_is_trained(name, student, spec, aligning))
        if p.requires_grad:
            trained.append(name)
    return trained


def _is_trained(name: str, student: Student, spec: HybridSpec, aligning: bool) -> bool:
    if ".self_attn." not in name:
        return False
    layer = int(name.split(".")[2])
    narrow = layer in student.windowed
    if any(part in name for part in GATE_PARTS):
        return narrow
    if not narrow and (aligning or not spec.train_full_layers):
        return False
    if spec.train == "lora":
        return ".lora_" in name
    return spec.train == "full" and any(f".{projection}." in name for projection in PROJECTIONS)


def round_frozen(student: Student, spec: HybridSpec, dtype: torch.dtype) -> None:
    """Puts what no stage trains into `dtype`, in place: under autocast it would be cast anew at every step, and the teacher can
    share it. What is trained stays fp32."""
    trained = set(mark_trainable(student, spec))
    for name, p in student.model.named_parameters():
        if name not in trained:
            p.data = p.data.to(dtype)


def build_teacher(student: Student, spec: HybridSpec, dtype: torch.dtype) -> NHAForCausalLM:
    """The base in `dtype`, on the student's device, without gradients; it shares what the student keeps in that dtype."""
    teacher = convert_pretrained(base_folder(spec.base), mixer="attention", dtype=dtype)
    kept = {name.replace(".base_layer.", "."): p for name, p in student.model.named_parameters() if not p.requires_grad}
    for module_name, module in teacher.named_modules():
        for name, p in list(module.named_parameters(recurse=False)):
            same = kept.get(f"{module_name}.{name}")
            if same is not None and same.dtype == dtype:
                setattr(module, name, nn.Parameter(same.detach(), requires_grad=False))
            else:
                p.requires_grad_(False)
    return teacher.to(student.model.device).eval()
