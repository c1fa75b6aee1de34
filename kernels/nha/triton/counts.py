"""Counts on the host. Triton's own `cdiv` and `next_power_of_2` can also be called in kernels, and take 4 us a call for it."""

from __future__ import annotations


def cdiv(n: int, size: int) -> int:
    """Pieces of `size` that hold n."""
    return -(-n // size)


def power_of_2(n: int) -> int:
    """The least power of two that is no less than n >= 1."""
    return 1 << (n - 1).bit_length()
