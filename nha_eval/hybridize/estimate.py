"""What a hybrid would take, before anything is trained: weights, tokens, arithmetic, memory of a GPU, hours.

    python run_eval.py hybridize nha-llama-3-8b --dry-run

Arithmetic: 2 FLOPs a weight and token forward; backward the same for what lies above the first trained weight, and again for
each trained weight. Attention beyond its projections is counted at half the sequence's length where it is full and at
`window + slots` where it is not. Memory of one of N GPUs under FSDP, weights shared out: fp32 weights, gradients and Adam's two
moments of what is trained, the teacher whole in bf16, and what a decoder layer keeps for the backward pass. Hours: the FLOP/s
that training steps of NHA reached in `results/reference/bench-model-*.csv`, counted the same way; a model much smaller than
that one is bound by launches instead and takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from models.adapted import GATE_PARTS, PROJECTIONS, base_folder
from models.configuration import NHAConfig
from models.convert import FAMILIES, OWN_FIELDS, read_config
from models.errors import ModelUnavailable
from models.modeling import NHAForCausalLM
from nha_eval.errors import UserError
from nha_eval.hybridize.objectives import CHUNK
from nha_eval.hybridize.spec import STAGES, HybridSpec
from nha_eval.training.flops import GPUS, forward_flops, full_windows, kept_bytes, measured_rate

# Bases whose weights may be out of reach, by what their config.json says.
KNOWN = {
    "meta-llama/Meta-Llama-3-8B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen2.5-7B": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True)
class Estimate:
    """Counts are exact; FLOPs, bytes and hours by the module's rules. `rate`: FLOP/s a GPU, None where none was measured."""

    parameters: int
    trainable: int
    adapter_bytes: int
    stages: list[dict[str, Any]]  # stage, tokens, steps, flops, gpu_bytes, hours
    rate: float | None
    rate_source: str | None


def estimate(spec: HybridSpec, gpus: int = GPUS) -> Estimate:
    """Of a spec, on `gpus` GPUs. Raises UserError where its base is neither here nor known by its configuration."""
    config = _config(spec)
    with torch.device("meta"):
        model = NHAForCausalLM(config)
    counts = {name: p.numel() for name, p in model.named_parameters()}
    narrow = [i for i, window in enumerate(config.windows) if window is not None]
    gates = sum(n for name, n in counts.items() if _layer(name) in narrow and any(part in name for part in GATE_PARTS))
    projections = {name: n for name, n in counts.items() if any(f".self_attn.{p}." in name for p in PROJECTIONS)}
    trained = {name: n for name, n in projections.items() if spec.train_full_layers or _layer(name) in narrow}
    if spec.train == "lora":
        moved = sum(
            spec.lora.rank * sum(model.get_parameter(name).shape)
            for name in trained
            if name.endswith(".weight") and name.split(".")[-2] in spec.lora.targets
        )
    else:
        moved = sum(trained.values()) if spec.train == "full" else 0
    parameters, trainable = sum(counts.values()), gates + moved
    rate, source = measured_rate()
    stages = []
    for name in STAGES:
        stage = getattr(spec, name)
        if stage is None:
            continue
        flops = _flops_of_token(name, spec, config, counts, trainable) * stage.tokens
        micro = stage.micro_batch or max(1, stage.batch // gpus)
        about = {
            "stage": name,
            "tokens": stage.tokens,
            "steps": stage.tokens // (stage.batch * spec.text.length),
            "flops": flops,
            "gpu_bytes": _gpu_bytes(name, spec, config, parameters, trainable, micro, gpus),
            "hours": None if rate is None else flops / (rate * gpus) / 3600,
        }
        stages.append(about)
    return Estimate(parameters, trainable, 2 * trainable, stages, rate, source)


def _config(spec: HybridSpec) -> NHAConfig:
    try:
        base = read_config(base_folder(spec.base)).to_dict()
    except ModelUnavailable as problem:
        if spec.base not in KNOWN:
            raise UserError(f"{problem}; a dry run needs its config.json") from problem
        base = KNOWN[spec.base]
    family = base["model_type"]
    if family not in FAMILIES:
        raise UserError(f"{spec.base} is a model of type {family!r}; wanted one of {', '.join(FAMILIES)}")
    fields = {name: value for name, value in base.items() if name not in OWN_FIELDS} | FAMILIES[family]
    head_dim = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    slots = spec.num_slots or min(head_dim, 256)
    windows = spec.windows_of(fields["num_hidden_layers"])
    more = {"head_dim": head_dim, "num_slots": slots, "mixers": spec.mixer, "windows": windows}
    if spec.mixer == "nha":
        more["slot_logits"] = spec.slot_logits
    return NHAConfig(**(fields | more))


def _layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else None


def _flops_of_token(name: str, spec: HybridSpec, config: NHAConfig, counts: dict[str, int], trainable: int) -> float:
    length = spec.text.length
    # Its gates take no part in what it computes; a window of None counts it as full attention.
    full = full_windows(config)
    teacher = forward_flops(full, {k: n for k, n in counts.items() if not any(part in k for part in GATE_PARTS)}, length)
    if name == "align":
        return teacher + 2 * forward_flops(config, counts, length, ".self_attn.") + 2.0 * trainable
    student = forward_flops(config, counts, length)
    return (teacher if name == "distill" else 0.0) + 2 * student + 2.0 * trainable


def _gpu_bytes(name: str, spec: HybridSpec, config: NHAConfig, parameters: int, trainable: int, micro: int, gpus: int) -> float:
    shared = (4 * parameters + 12 * trainable) / gpus
    teacher = 2 * parameters if name != "finetune" else 0
    tokens = micro * spec.text.length
    kept = kept_bytes(config, tokens, feed_forward=name != "align")
    logits = 0 if name == "align" else 3 * min(tokens, CHUNK) * config.vocab_size * 4
    return shared + teacher + kept + logits


def show(name: str, spec: HybridSpec, found: Estimate, gpus: int = GPUS, console: Console | None = None) -> None:
    """Print an estimate as a table."""
    console = console or Console(highlight=False, soft_wrap=True)
    console.print(
        f"{name}: {spec.base}, {found.parameters / 1e6:,.1f} M parameters, {found.trainable / 1e6:,.2f} M of them trained "
        f"({found.adapter_bytes / 1e6:,.1f} MB kept in bf16)",
        markup=False,
    )
    table = Table("stage", "tokens", "steps", "FLOPs", f"GB a GPU ({gpus}, FSDP)", f"hours on {gpus}")
    for about in found.stages:
        hours = "?" if about["hours"] is None else f"{about['hours']:,.2g}"
        size = f"{about['gpu_bytes'] / 1e9:,.1f}"
        table.add_row(about["stage"], f"{about['tokens']:,}", f"{about['steps']:,}", f"{about['flops']:.3g}", size, hours)
    console.print(table)
    if found.rate is None:
        console.print("hours: no measured throughput was found (bench model --phase train)", markup=False)
    else:
        console.print(f"hours at {found.rate / 1e12:,.0f} TFLOP/s a GPU, measured in {found.rate_source}", markup=False)
