"""Specs of trainings by path or name; which kind one is, its keys say: `models` with `text` are proxies, `tasks` is MQAR's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nha_eval.spec import find_spec, lay_change, read_spec

if TYPE_CHECKING:
    from nha_eval.training.mqar.spec import MqarSpec
    from nha_eval.training.proxies.spec import ProxySpec
    from nha_eval.training.spec import TrainSpec

SPECS = Path(__file__).parent / "specs"


def read_training_spec(
    given: str, overrides: dict[str, Any], changes: list[str] | None = None
) -> tuple[str, TrainSpec | MqarSpec | ProxySpec]:
    """(its bare name, the spec) of a path or a name, with flags laid over it, and before them `changes`, each KEY=VALUE.

    UserError, one line, for what is wrong.
    """
    path = find_spec(given, SPECS)
    content = read_spec(path, "train")
    for change in changes or ():
        lay_change(content, change)
    merged = {**content, **{key: value for key, value in overrides.items() if value is not None}}
    if "models" in content and "text" in content:
        from nha_eval.training.proxies.spec import make_proxy_spec

        return path.stem, make_proxy_spec(merged, where=path.name)
    if "tasks" in content or "models" in content:
        from nha_eval.training.mqar.spec import make_mqar_spec

        return path.stem, make_mqar_spec(merged, where=path.name)
    from nha_eval.training.spec import make_train_spec

    return path.stem, make_train_spec(merged, where=path.name)
