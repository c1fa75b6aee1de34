"""Specs of trainings by path or name; which kind one is, its keys say: `tasks` is MQAR's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nha_eval.errors import UserError, nearest
from nha_eval.paths import user_path
from nha_eval.spec import read_spec

if TYPE_CHECKING:
    from nha_eval.training.mqar.spec import MqarSpec
    from nha_eval.training.spec import TrainSpec

SPECS = Path(__file__).parent / "specs"


def spec_names() -> list[str]:
    """The specs that come with the package."""
    return sorted(path.stem for path in SPECS.glob("*.yaml"))


def read_training_spec(given: str, overrides: dict[str, Any]) -> tuple[str, TrainSpec | MqarSpec]:
    """(its bare name, the spec) of a path or a name, with flags laid over it. UserError, one line, for what is wrong."""
    path = user_path(given, "spec", f"give a YAML file, or one of {', '.join(spec_names())}")
    if not path.is_file():
        if given not in spec_names():
            raise UserError(
                f"no such spec file: {given!r}; give a YAML file or a spec by name ({nearest(given, spec_names())})"
            )
        path = SPECS / f"{given}.yaml"
    content = read_spec(path)
    merged = {**content, **{key: value for key, value in overrides.items() if value is not None}}
    if "tasks" in content or "models" in content:
        from nha_eval.training.mqar.spec import make_mqar_spec

        return path.stem, make_mqar_spec(merged, where=path.name)
    from nha_eval.training.spec import make_train_spec

    return path.stem, make_train_spec(merged, where=path.name)
