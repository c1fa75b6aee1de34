"""The text that a search reads, as rows of tokens: `heldout` to search on, `unseen` to confirm on.

text = open_tokens("path/to/folder", tokenizer, length=1024, heldout=4, unseen=8)      # .heldout LongTensor [4, 1024]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nha_eval.search.probe import beginning
from nha_eval.text import TextSpec, open_text


@dataclass(frozen=True)
class Tokens:
    """heldout, unseen: LongTensors [N, length]; about: where the text is from, as plain data."""

    heldout: Tensor
    unseen: Tensor
    about: dict[str, Any]


def open_tokens(source: str | list[str], tokenizer: Any, *, length: int, heldout: int, unseen: int) -> Tokens:
    """So many sequences of each split of the sources, each begun as the tokenizer begins a text.

    They are taken at even steps through the split, as neighbours are of one document. Raises UserError, one line, where a
    source cannot be had or holds fewer.
    """
    text = open_text(TextSpec(source=source, length=length), tokenizer)
    before = torch.tensor(beginning(tokenizer), dtype=torch.long)

    def rows(split: Callable[..., Any], n: int) -> Tensor:
        # Asked for that many, the split refuses where it has fewer.
        split(length - len(before), n)
        every = split(length - len(before))
        places = [int((i + 0.5) * len(every) / n) for i in range(n)]
        return torch.stack([torch.cat([before, every[place]["input_ids"]]) for place in places])

    return Tokens(rows(text.heldout, heldout), rows(text.unseen, unseen), text.about)
