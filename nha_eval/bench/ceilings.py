"""What this machine reaches at best, measured in the same run: a large copy, and a large matrix product.

A row's share of the roofline is the least time that these ceilings allow for what the operator needs, over its median.
"""

from __future__ import annotations

from typing import Any

import torch

from nha_eval.bench.machine import device_name
from nha_eval.bench.rows import Rows
from nha_eval.bench.setting import Draw
from nha_eval.bench.timing import Budget, quartiles, significant, times_ms

COPY_BYTES = {"cuda": 2**30, "cpu": 2**29}  # read, and as many written
MATMUL_SIZE = {"cuda": 8192, "cpu": 2048}


def ceilings_of(rows: Rows, draw: Draw, budget: Budget) -> dict[str, float]:
    """`tflops` and `gbps` of the folder, so that all its shares are of the same ones, else measured now and added to it."""
    name = rows.table.key[0]

    def there() -> dict[str, float]:
        own = [row for row in rows.rows if row["phase"] == "ceiling" and row["dtype"] == draw.dtype_name]
        return {column: float(row[column]) for row in own for column in ("tflops", "gbps") if row[column]}

    if len(there()) < 2:
        about = {"dtype": draw.dtype_name, "device": device_name(draw.device)}
        for ceiling, row in measure_ceilings(draw, budget).items():
            rows.append({name: ceiling, **row, **about})
    return there()


def measure_ceilings(draw: Draw, budget: Budget) -> dict[str, dict[str, Any]]:
    """Rows of the table: `copy` with its GB/s (read and written bytes), `matmul` with its TFLOP/s in the run's dtype."""
    copied, moved = _copy(draw, budget)
    multiplied, size = _matmul(draw, budget)
    gbps = moved / quartiles(copied)[1] / 1e6
    tflops = 2 * size**3 / quartiles(multiplied)[1] / 1e9
    return {
        "copy": {**_row(copied), "gbps": significant(gbps), "note": f"{moved / 2**30:g} GiB moved"},
        "matmul": {**_row(multiplied), "tflops": significant(tflops), "note": f"{size} cubed"},
    }


def _copy(draw: Draw, budget: Budget) -> tuple[list[float], int]:
    source = torch.empty(COPY_BYTES[draw.device.type], dtype=torch.uint8, device=draw.device).random_()
    target = torch.empty_like(source)
    return times_ms(lambda: target.copy_(source), draw.device, budget), 2 * source.numel()


def _matmul(draw: Draw, budget: Budget) -> tuple[list[float], int]:
    size = MATMUL_SIZE[draw.device.type]
    # Random values: products of zeros run faster than those of data.
    left, right = draw.normal(size, size), draw.normal(size, size)
    return times_ms(lambda: left @ right, draw.device, budget), size


def _row(times: list[float]) -> dict[str, Any]:
    low, middle, high = quartiles(times)
    return {
        "phase": "ceiling",
        "latency_ms": significant(middle),
        "latency_ms_p25": significant(low),
        "latency_ms_p75": significant(high),
        "repeats": len(times),
        "graph": False,
        "status": "ok",
    }
