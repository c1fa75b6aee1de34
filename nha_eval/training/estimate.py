"""What a training from scratch would take, before anything is trained: weights, tokens, arithmetic, memory of a GPU, hours.

    python run_eval.py train nha-340m-15b --dry-run

Arithmetic is counted as `nha_eval.training.flops` says, three times the forward pass's. Memory of one of N GPUs under FSDP:
its share of fp32 weights, gradients and Adam's two moments, what the decoder layers keep for the backward pass (with
`checkpointing` their inputs, and one layer whole), and a piece of the logits. Hours: at the FLOP/s that training steps of the
same pattern reached in `results/reference/bench-model-*.csv`, of the same size where that was measured, of the `nha` pattern
where it has none; smaller models and fewer tokens a step than those measured are bound by launches and take longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from nha_eval.training.flops import GPUS, forward_flops, kept_bytes, measured_rate, weights_of
from nha_eval.training.language import chunk_of, config_of, tokenizer_of
from nha_eval.training.spec import TrainSpec


@dataclass(frozen=True)
class Estimate:
    """`hours` and `rate` (FLOP/s a GPU) are None where no throughput was measured."""

    parameters: int
    tokens: int
    steps: int
    flops: float
    gpu_bytes: float
    rate: float | None
    rate_source: str | None
    hours: float | None


def estimate(spec: TrainSpec, gpus: int = GPUS) -> Estimate:
    """Of a spec, on `gpus` GPUs. Raises UserError for a model that cannot be made. The tokenizer need not be within reach."""
    config = config_of(spec, _vocabulary(spec))
    counts = weights_of(config)
    parameters = sum(counts.values())
    tokens = spec.steps * spec.tokens_of_step
    flops = 3 * forward_flops(config, counts, spec.length) * tokens
    micro = spec.micro_batch or max(1, spec.batch // gpus)
    kept = kept_bytes(config, micro * spec.length)
    if spec.checkpointing:
        kept = kept // config.num_hidden_layers + 2 * config.hidden_size * config.num_hidden_layers * micro * spec.length
    logits = 3 * min(micro * spec.length, chunk_of(config.vocab_size)) * config.vocab_size * 4
    pattern, size = _pattern_and_size(spec)
    rate, source = measured_rate(pattern, size)
    if rate is None:
        rate, source = measured_rate(size=size)
    hours = None if rate is None else flops / (rate * gpus) / 3600
    return Estimate(parameters, tokens, spec.steps, flops, 16 * parameters / gpus + kept + logits, rate, source, hours)


def _pattern_and_size(spec: TrainSpec) -> tuple[str, str | None]:
    """None for sizes of its own."""
    if spec.model is None:
        return spec.sizes.pattern, None
    pattern, _, size = spec.model.rpartition("-")
    return pattern, size


def _vocabulary(spec: TrainSpec) -> int:
    """Of the tokenizer, where the model's own sizes do not say it."""
    return 0 if spec.model is not None else tokenizer_of(spec)[1]


def show(name: str, spec: TrainSpec, found: Estimate, gpus: int = GPUS, console: Console | None = None) -> None:
    """Print an estimate."""
    console = console or Console(highlight=False, soft_wrap=True)
    what: Any = spec.model or f"{spec.sizes.pattern} of sizes of its own"
    console.print(f"{name}: {what}, {found.parameters / 1e6:,.1f} M parameters", markup=False)
    console.print(
        f"{found.tokens:,} tokens in {found.steps:,} steps of {spec.tokens_of_step:,}, {found.flops:.3g} FLOPs", markup=False
    )
    hours = "?" if found.hours is None else f"{found.hours:,.3g}"
    console.print(f"{found.gpu_bytes / 1e9:,.1f} GB a GPU and {hours} hours on {gpus} under FSDP", markup=False)
    if found.rate is None:
        console.print("hours: no measured throughput was found (bench model --phase train)", markup=False)
    else:
        console.print(f"hours at {found.rate / 1e12:,.0f} TFLOP/s a GPU, measured in {found.rate_source}", markup=False)
