"""Whether a checkpoint's folder may be read at all, found out from names and JSON alone, before anything in it is loaded.

Weights are read from safetensors. A pickle runs whatever its author put into it as soon as it is opened, and `auto_map` asks
for Python files of the checkpoint to be run: a folder that needs either is refused.

    from models.folder import check_folder
    check_folder("path/to/checkpoint")
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from models.errors import ModelUnavailable

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
# Pickles of weights or of a trainer's state may lie beside safetensors, as nothing reads them; not those of a tokenizer.
TOKENIZER_STEMS = ("tokenizer", "vocab", "special_tokens")
WITH_CODE = ("config.json", "tokenizer_config.json", "processor_config.json", "generation_config.json")
INDEX = "model.safetensors.index.json"


def check_folder(path: str | os.PathLike) -> Path:
    """The folder, which holds a config.json and safetensors and neither needs pickles nor asks for code of its own.

    Raises ModelUnavailable, in one line, with what was found instead.
    """
    if not isinstance(path, str | os.PathLike):
        raise ModelUnavailable(f"the checkpoint is {path!r}; wanted the path of a checkpoint's folder")
    folder = Path(path)
    try:
        there = folder.is_dir()
        names = sorted(entry.name for entry in folder.iterdir()) if there else []
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{folder} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if "config.json" not in names:
        raise ModelUnavailable(f"{folder} is not a checkpoint folder: it has no config.json")
    kind = read_object(folder / "config.json").get("model_type")
    if not isinstance(kind, str):
        raise ModelUnavailable(
            f"{folder / 'config.json'} cannot be read: it names no model_type; wanted a JSON object with one, as Transformers "
            "saves it"
        )
    for name in WITH_CODE:
        if name in names:
            # What else is wrong with those beside config.json is for their readers to say.
            check_no_code(read_object(folder / name, wanted=name == "config.json"), folder / name)
    pickles = [name for name in names if name.lower().endswith(PICKLES)]
    for name in pickles:
        if name.lower().startswith(TOKENIZER_STEMS):
            raise ModelUnavailable(
                f"{folder} holds {name}, a pickle, which runs code when it is opened; wanted a tokenizer as tokenizer.json: "
                "save it with save_pretrained, and remove that file"
            )
    if not any(name.endswith(".safetensors") for name in names):
        found = f" but the pickle {pickles[0]}, which runs code when it is opened" if pickles else ""
        raise ModelUnavailable(
            f"{folder} holds no *.safetensors{found}; wanted weights in that format (pickles are not read): save the model "
            "with save_pretrained"
        )
    if INDEX in names:
        shard_names(read_object(folder / INDEX), folder / INDEX)
    return folder


def check_no_code(fields: dict[str, Any], source: object) -> None:
    """Raises ModelUnavailable where a configuration of a checkpoint asks for Python files of its own; `source` names it."""
    if fields.get("auto_map"):
        raise ModelUnavailable(
            f"{source} asks for code of its own (auto_map), which is not run here; wanted a model that this package or "
            "Transformers knows: remove auto_map if it is one"
        )


def shard_names(index: dict[str, Any], source: object) -> list[str]:
    """The files that an index of shards names, sorted. Raises ModelUnavailable for one that is no safetensors beside it."""
    names = index.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelUnavailable(f"{source} names no shards (weight_map); fetch or save the checkpoint again")
    for name in names.values():
        plain = isinstance(name, str) and name == Path(name).name and "\0" not in name and "\\" not in name
        if not plain or not name.endswith(".safetensors"):
            raise ModelUnavailable(
                f"{source} names the shard {str(name)[:100]!r}; wanted are *.safetensors in the same folder: fetch or save the "
                "checkpoint again"
            )
    return sorted(set(names.values()))


def read_object(file: Path, wanted: bool = True) -> dict[str, Any]:
    """A JSON object from a checkpoint; any other JSON is an empty one. ModelUnavailable where it is `wanted` and cannot be
    read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if not wanted:
            return {}
        told = " ".join(str(error).split())[:200]
        raise ModelUnavailable(f"{file} cannot be read: {told}; fetch or save the checkpoint again") from error
    return content if isinstance(content, dict) else {}
