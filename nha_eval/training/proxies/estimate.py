"""What the trainings of a proxy spec would take, before anything is trained: each model's weights, state and arithmetic.

    python run_eval.py train lm-proxies --dry-run

No hours are told: models so small are bound by launches, and the first of a run tell how long the rest will take.
"""

from __future__ import annotations

import torch
from rich.console import Console

from models.modeling import NHAForCausalLM
from nha_eval.training.flops import forward_flops, weights_of
from nha_eval.training.language import OWN_TOKENIZER, named_tokenizer
from nha_eval.training.proxies.cells import cells, proxy_config
from nha_eval.training.proxies.spec import ProxySpec


def show_proxies(name: str, spec: ProxySpec, console: Console | None = None) -> None:
    """Print what the spec asks for. Raises UserError for a model that cannot be made."""
    console = console or Console(highlight=False, soft_wrap=True)
    # One of its own need not be made to know its size.
    size = spec.tokenizer.removeprefix(OWN_TOKENIZER)
    own = spec.tokenizer.startswith(OWN_TOKENIZER) and size.isdecimal()
    vocabulary = int(size) if own else named_tokenizer(spec.tokenizer, spec.text)[1]
    found = cells(spec, vocabulary)
    tokens = spec.steps * spec.batch * spec.text.length
    models = {cell.model: cell for cell in found}
    console.print(
        f"{name}: {len(found)} trainings of {len(models)} models, {tokens:,} tokens each in {spec.steps:,} steps of "
        f"{spec.batch * spec.text.length:,}, vocabulary {vocabulary:,}",
        markup=False,
    )
    total = 0.0
    for label, cell in models.items():
        config = proxy_config(spec, cell, vocabulary)
        counts = weights_of(config)
        with torch.device("meta"):
            state = NHAForCausalLM(config).state_elements(spec.text.length)
        weights, embedding = sum(counts.values()), counts["model.embed_tokens.weight"]
        flops = 3 * forward_flops(config, counts, spec.text.length) * tokens
        total += flops * len(spec.seeds)
        console.print(
            f"  {label}: {weights / 1e6:.2f} M weights ({embedding / 1e6:.2f} M embedding), {state:,} numbers of state, "
            f"{flops:.3g} FLOPs",
            markup=False,
        )
    console.print(f"{total:.3g} FLOPs in all, measuring aside", markup=False)
