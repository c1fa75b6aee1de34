"""What a hybrid foretells of a passage that comes again, beside its base: `copying.csv` of a run.

A passage of held-out text, other held-out text, and the passage once more, whose tokens are given and asked one by one; nothing
is generated. In the `control` another passage came first: what is right even so was not copied.

    rows = copying(student, teacher, tokens, wanted, seed=0, device=device, dtype=torch.bfloat16)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.modeling import NHAForCausalLM
from nha_eval.errors import UserError
from nha_eval.training.proxies.recall import again, excerpt, foretold

if TYPE_CHECKING:
    from nha_eval.hybridize.spec import Copies

COLUMNS = [
    *("stage", "distance", "passage", "sequences", "right", "right_stderr", "control", "base", "base_stderr", "base_control"),
    *("difference", "difference_stderr"),
]
_STREAM = 0xC09  # beside the seed, so that no other use of it draws the same numbers


def copying(
    student: NHAForCausalLM,
    teacher: NHAForCausalLM,
    tokens: np.ndarray,
    wanted: Copies,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """A row a distance: shares of asked tokens that are foretold right, means over sequences with their standard errors;
    `difference` is the student's less the base's on the same sequences.

    tokens [N], the text that passages are taken from. Raises UserError where it is shorter than a sequence.
    """
    rows = []
    for distance in sorted(set(wanted.distances)):
        if len(tokens) < distance + 2 * wanted.passage:
            raise UserError(
                f"the held-out text has {len(tokens)} tokens, a passage of {wanted.passage} met again after {distance} wants "
                f"{distance + 2 * wanted.passage}: give more text, or smaller copying.distances"
            )
        rng = np.random.default_rng([seed, distance, _STREAM])
        pairs = []
        for _ in range(wanted.sequences):
            first, other = (excerpt(rng, tokens, wanted.passage) for _ in range(2))
            pairs.append(again(rng, tokens, distance, first, other))
        asked = [list(sequences) for sequences in zip(*pairs, strict=True)]
        right, control = (foretold(student, sequences, device, dtype)[0] for sequences in asked)
        base, base_control = (foretold(teacher, sequences, device, dtype)[0] for sequences in asked)
        rows.append(
            {
                "distance": distance,
                "passage": wanted.passage,
                "sequences": wanted.sequences,
                "right": float(right.mean()),
                "right_stderr": _stderr(right),
                "control": float(control.mean()),
                "base": float(base.mean()),
                "base_stderr": _stderr(base),
                "base_control": float(base_control.mean()),
                "difference": float((right - base).mean()),
                "difference_stderr": _stderr(right - base),
            }
        )
    return rows


def _stderr(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
