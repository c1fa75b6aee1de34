"""Where attention goes on a task's own prompts: a few of them are read once more, and what the layers share is counted.

    from models.presets import load
    from nha_eval.lm import HarnessLM
    observe_task(HarnessLM(load("nha-tiny")), "recall_needle", length=512)

This is apart from scoring, which reads a context once for all of its questions and copies caches: the sample is small, and
scores are what they are without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from models.telemetry import observable_layers, observed_shares
from nha_eval.scoring import source_document, task_at_hand, without_noise

PROMPTS = 8  # a cell at most
DOCUMENTS = 64  # of each task, among which prompts on different contexts are looked for


def observe_task(
    lm: Any, task_name: str, *, limit: int | None = None, on_progress: Callable[[int, int], None] | None = None, **settings: Any
) -> list[dict[str, Any]]:
    """The rows of `models.telemetry.SlotShares.table` over the prefill of the task's first prompts, one a context and PROMPTS
    at most; none where no layer has slots beside a window.

    `settings` and what is raised are those of `scoring.task_at_hand`. `on_progress(done, total)` counts prompts.
    """
    if not observable_layers(lm.model):
        return []
    loaded = task_at_hand(lm, task_name, **settings)
    with without_noise():
        prompts = sampled_prompts(loaded["tasks"], limit)
    with torch.no_grad(), observed_shares(lm.model) as shares:
        for done, prompt in enumerate(prompts, 1):
            tokens = (lm.tok_encode(prompt) or [lm.prefix_token_id])[-lm.max_length :]
            ids = torch.tensor([tokens], device=lm.device)
            lm.model(input_ids=ids, use_cache=False, logits_to_keep=1)
            if on_progress is not None:
                on_progress(done, len(prompts))
    return shares.table()


def sampled_prompts(tasks: dict[str, Any], limit: int | None) -> list[str]:
    """The first prompt on each of the first PROMPTS contexts, of lm-eval tasks in turn; `limit`: documents that are asked."""
    prompts: dict[Any, str] = {}
    for name, task in tasks.items():
        if len(prompts) == PROMPTS:
            break
        task.build_all_requests(limit=min(limit or DOCUMENTS, DOCUMENTS), rank=0, world_size=1)
        for instance in task.instances:
            context = source_document(instance.doc)
            key = (name, instance.doc_id if context is None else str(context))
            if len(prompts) < PROMPTS:
                prompts.setdefault(key, instance.args[0])
    return list(prompts.values())
