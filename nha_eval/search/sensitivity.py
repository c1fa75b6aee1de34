"""Each layer alone at each window, all others full: which layers need to see far.

`sweep` goes from the first layer to the last, so that each setting shares its beginning with the full model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nha_eval.search.evaluator import Evaluator
from nha_eval.search.spending import Spending
from nha_eval.search.windows import Windows, with_window


def alone(full: Windows, layers: Sequence[int], windows: Sequence[int | None]) -> dict[tuple[int, int], Windows]:
    """The setting of each layer and each window that is not full."""
    return {(i, window): with_window(full, i, window) for i in layers for window in windows if window is not None}


def sweep(
    evaluator: Evaluator,
    settings: dict[tuple[int, int], Windows],
    told: Callable[[int, dict[int, float]], None] = lambda layer, kl: None,
) -> None:
    """Evaluate KL, and the probe where there is one, of every setting; `told` hears of each layer's mean KL by window. Raises
    OutOfTime."""
    if evaluator.texts:
        evaluator.answers(evaluator.full)
    found: dict[int, dict[int, float]] = {}
    for (layer, window), windows in settings.items():
        found.setdefault(layer, {})[window] = float(evaluator.kl(windows).mean())
        if evaluator.texts:
            evaluator.answers(windows)
        if len(found[layer]) == sum(i == layer for i, _ in settings):
            told(layer, found[layer])


def sensitivity_rows(
    evaluator: Evaluator, settings: dict[tuple[int, int], Windows], state: Spending, latency: Spending | None
) -> list[dict[str, Any]]:
    """Rows of sensitivity.csv: figures and what the window saves of the layer's state and latency."""
    mixers = evaluator.model.config.mixers
    rows = []
    for (layer, window), windows in settings.items():
        saved = {"state_bytes_saved": state.layer(layer, None) - state.layer(layer, window)}
        if latency is not None:
            saved["latency_ms_saved"] = round(latency.layer(layer, None) - latency.layer(layer, window), 4)
        rows.append({"layer": layer, "window": window, "mixer": mixers[layer], **saved, **evaluator.row(windows)})
    return rows
