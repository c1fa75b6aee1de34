"""What an MQAR sweep would take, before anything is trained: its trainings, and each model's weights, state and arithmetic.

    python run_eval.py train mqar-zoology --dry-run

No hours are told: models so small are bound by launches, and the first trainings of a run tell how long the rest will take.
"""

from __future__ import annotations

import torch
from rich.console import Console

from models.configuration import NHAConfig
from models.modeling import NHAForCausalLM
from nha_eval.training.flops import forward_flops
from nha_eval.training.mqar.cells import mqar_config, shapes
from nha_eval.training.mqar.spec import MqarSpec, Task


def trainings(spec: MqarSpec, models: int) -> int:
    """How many there are of so many models: each rate on one seed, unless there is one rate, and each seed at the best."""
    each = (len(spec.rates) if len(spec.rates) > 1 else 0) + len(spec.seeds)
    return len(spec.tasks) * models * each


def sequences_of(spec: MqarSpec, task: Task) -> list[tuple[int, int, int]]:
    """(length, pairs, sequences) of each kind that one training sees, unless it stops early."""
    return [(kind.length, kind.pairs, spec.epochs * (kind.examples // spec.batch * spec.batch)) for kind in task.train]


def training_flops(spec: MqarSpec, task: Task, config: NHAConfig, counts: dict[str, int]) -> float:
    """FLOPs of one training, forward and backward; the head is asked at the queries alone. counts: weights by name."""
    head = 2.0 * counts["model.embed_tokens.weight"]
    total = 0.0
    for length, pairs, sequences in sequences_of(spec, task):
        body = forward_flops(config, counts, length) - head
        total += 3 * sequences * (body * length + head * pairs)
    return total


def show_sweep(name: str, spec: MqarSpec, console: Console | None = None) -> None:
    """Print what the sweep is made of. Raises UserError for a model that cannot be made."""
    console = console or Console(highlight=False, soft_wrap=True)
    found = shapes(spec)
    longest = max(task.longest for task in spec.tasks)
    console.print(
        f"{name}: {trainings(spec, len(found))} trainings of {len(found)} models on {len(spec.tasks)} tasks, {len(spec.rates)} "
        f"rates and {len(spec.seeds)} seeds",
        markup=False,
    )
    each = trainings(spec, 1) // len(spec.tasks)
    total_steps, total_flops = 0, 0.0
    for task in spec.tasks:
        kinds = sequences_of(spec, task)
        steps = sum(sequences for *_, sequences in kinds) // spec.batch
        tokens = sum(length * sequences for length, _, sequences in kinds)
        total_steps += each * len(found) * steps
        console.print(f"task {task.name}: {steps:,} steps, {tokens:,} tokens a training", markup=False)
    for shape in found:
        config = mqar_config(spec, shape, longest)
        with torch.device("meta"):
            model = NHAForCausalLM(config)
        counts = {key: p.numel() for key, p in model.named_parameters()}
        flops = [training_flops(spec, task, config, counts) for task in spec.tasks]
        total_flops += each * sum(flops)
        span = f"{min(flops):.3g}" if len(flops) == 1 else f"{min(flops):.3g} to {max(flops):.3g}"
        state, size = model.state_elements(longest), model.state_bytes(1, longest)
        console.print(
            f"{shape.label}: {sum(counts.values()):,} parameters, {span} FLOPs a training, at {longest:,} tokens a state of "
            f"{state:,} elements, {size:,} bytes",
            markup=False,
        )
    console.print(f"in all: {total_steps:,} steps, {total_flops:.3g} FLOPs, unless trainings stop early", markup=False)
