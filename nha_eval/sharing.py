"""Which worker does what: cells shared out, and where there are more workers than shares, their documents.

share_out(cells, 4)     # portions for four workers at a time
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby

from nha_eval.plan import Cell


@dataclass(frozen=True)
class Portion:
    """Cells of one model for one worker: all of share number `share`, or of each cell the documents whose turn it is, as worker
    `part` among `of`."""

    cells: list[Cell]
    share: int
    part: int = 0
    of: int = 1


def share_out(cells: list[Cell], room: int) -> list[Portion]:
    """Portions for `room` workers at a time: a model's cells are shared among as many workers as there is room for it, those of
    one task and length together, since they read the same documents. Where there are fewer such shares than workers, several
    answer one share's documents in parts."""
    models = [list(group) for _, group in groupby(cells, key=lambda cell: cell.model)]
    shares = []
    for own in models:
        together = [list(group) for _, group in groupby(own, key=lambda cell: (cell.task, cell.length))]
        count = max(1, min(len(together), math.ceil(room / len(models))))
        parts: list[list[Cell]] = [[] for _ in range(count)]
        for group in together:
            min(parts, key=len).extend(group)
        shares += [part for part in parts if part]
    if not shares:
        return []
    each, more = divmod(room, len(shares))
    workers = [max(1, each + (i < more)) for i in range(len(shares))]
    return [Portion(shares[i], i, part, of) for i, of in enumerate(workers) for part in range(of)]
