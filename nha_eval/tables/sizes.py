"""How many parameters a model has, found out without loading its weights."""

from __future__ import annotations

import json
import math
from pathlib import Path


def parameters(name: str) -> int | None:
    """Of a preset or a checkpoint folder, and of the base where it is taken as another form (`nha:FOLDER`); None where that
    takes loading it, as of a model of the hub. The name is one that can be had."""
    from models import assets, presets

    form, colon, rest = name.partition(":")
    if colon and form in presets.PREFIXES and not Path(name).exists():
        return parameters(rest)
    if "/" not in name and name in presets.preset_names():
        if name == presets.BASE:
            folder = assets.cached(assets.SMOLLM2)
            return None if folder is None else _in_safetensors(folder)
        shipped = presets.shipped_folder(name)
        return _of(presets.preset_config(name)) if shipped is None else _of_folder(shipped)
    folder = Path(name).expanduser()
    return _of_folder(folder) if folder.is_dir() else None


def _of(config: object) -> int:
    from nha_eval.training.flops import weights_of

    return sum(weights_of(config).values())


def _of_folder(folder: Path) -> int | None:
    from models.configuration import NHAConfig

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        # Of a hybrid kept apart from its base the folder holds what training changed alone.
        return _of(NHAConfig.from_pretrained(folder)) if kind == "nha" else _in_safetensors(folder)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _in_safetensors(folder: Path) -> int | None:
    """The elements of all tensors, by the files' headers."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < 2**28 else {}
        count += sum(math.prod(about["shape"]) for name, about in header.items() if name != "__metadata__")
    return count or None
