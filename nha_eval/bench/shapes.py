"""The shapes that are measured, by name: one attention layer's heads and dimensions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """One layer: B sequences, HQ query heads on H key-value heads, K and V head dimensions, M slots."""

    name: str
    batch: int
    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    slots: int
    what: str


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("A", 1, 32, 8, 128, 128, 64, "a layer of Llama-3-8B"),
        Shape("B", 4, 16, 16, 64, 64, 64, "a layer of a 340M model"),
        Shape("tiny", 1, 4, 2, 16, 16, 8, "to see whether everything runs"),
    )
}
