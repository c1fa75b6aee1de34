"""Where an answer stands in a prompt: as the tasks know it, in characters, and as a model reads it, in tokens.

>>> nearest(["Norse"], "The Norse came. Their Norse kin stayed. Who came first?")
22
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TokenPlace:
    """An answer's first token: `distance` tokens come after it, and `depth` in [0, 1] is the share of the prompt before it.

    The prompt's last token meets this one in a window of w tokens where distance < w.
    """

    distance: int
    depth: float


def nearest(accepted: Sequence[str], text: str) -> int | None:
    """Where the mention of an accepted answer that is nearest to the text's end begins, in characters, ignoring case; None
    where none stands in it.
    """
    found = [match.start() for answer in accepted for match in re.finditer(re.escape(answer), text, re.IGNORECASE)]
    return max(found, default=None)


def in_tokens(prompt: str, place: int, tokenizer: Any) -> TokenPlace:
    """The place (characters) of an answer in tokens of `tokenizer` (a Transformers tokenizer)."""
    if getattr(tokenizer, "is_fast", False):
        told = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in told["offset_mapping"]]
        total, before = len(ends), min(sum(end <= place for end in ends), len(ends) - 1)
    else:
        total = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        before = min(len(tokenizer(prompt[:place], add_special_tokens=False)["input_ids"]), total - 1)
    return TokenPlace(total - 1 - before, before / total)
