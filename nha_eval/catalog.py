"""What a model's name stands for, found out without loading its weights.

A name is a preset, the path of a checkpoint folder, or a hub id (`org/name`). Folders are looked over (configuration,
shards, headers, sizes), so that a broken checkpoint is refused before anything runs, and fingerprinted, so that cells
of other weights are never taken for these.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nha_eval import hub
from nha_eval.errors import UserError, nearest
from nha_eval.paths import user_path
from nha_eval.plan import ModelInfo
from nha_eval.window_settings import Window

# Files up to this size are read whole for the fingerprint; of larger ones the header and evenly spaced blocks, which
# any training changes.
WHOLE = 64 * 2**20
# The hub's own rule.
HUB_ID, LONGEST_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*"), 96
BLOCKS, BLOCK = 256, 64 * 2**10


def describe(name: str) -> ModelInfo:
    """Look a model up. Raises UserError, one line, when it cannot be had."""
    advice = "give a preset (`list` shows them), a checkpoint folder, or a hub id (org/name)"
    folder = user_path(name, "model", advice)
    # A path cannot be a preset's name, and asking for the presets imports torch.
    if "/" not in name:
        from models import presets

        if name in presets.preset_names():
            return describe_preset(name)
    form, colon, rest = name.partition(":")
    if colon and not Path(name).exists():
        return _in_form(name, form, rest)
    if folder.is_dir():
        return describe_folder(name, folder)
    if folder.exists():
        raise UserError(f"model {name!r} is a file: give the checkpoint folder that holds config.json")
    if HUB_ID.fullmatch(name) and len(name) <= LONGEST_HUB_ID:
        revision, config = hub.find_model(name)
        content = read_config(config, name)
        _refusing(name, "check_no_code", content, "its config.json")
        longest, layers = content.get("max_position_embeddings"), _layers(content, name)
        return ModelInfo(name, name, revision, own_window(content, name), longest, **layers)
    if "/" in name or name.startswith((".", "~")):
        raise UserError(
            f"no such checkpoint folder: {name!r}; give a folder that save_pretrained left, a preset (`list` shows them), or "
            "a hub id (org/name)"
        )
    raise UserError(
        f"no such model: {name!r}; {nearest(name, presets.preset_names(), what='presets')} (or give a checkpoint folder, or a "
        "hub id as org/name)"
    )


def describe_preset(name: str) -> ModelInfo:
    """A preset, by its settings; weights that are still to be fetched leave the longest length open."""
    from models import assets, patterns, presets

    shipped = presets.shipped_folder(name)
    if shipped is not None:
        return replace(describe_folder(name, shipped), label=name)
    if name != presets.BASE:
        config = presets.preset_config(name).to_dict()
        digest = _digest({key: value for key, value in config.items() if key != "transformers_version"})
        longest, layers = config["max_position_embeddings"], _layers(config, name)
        return ModelInfo(name, name, digest, own_window(config, name), longest, **layers)
    folder = assets.cached(assets.SMOLLM2)
    longest = read_config(folder / "config.json", name).get("max_position_embeddings") if folder else None
    form = {"model_type": "nha", "mixers": "attention", "windows": None, "num_hidden_layers": patterns.BASE_LAYERS}
    digest, needs = _digest([assets.SMOLLM2.sha256, "attention"]), (assets.SMOLLM2.name,)
    return ModelInfo(name, name, digest, own_window(form), longest, needs, least_windows(form))


def _in_form(name: str, form: str, rest: str) -> ModelInfo:
    """A checkpoint taken as another form, such as `nha:FOLDER`."""
    from models import presets

    if form not in presets.PREFIXES:
        raise UserError(f"no such form: {form!r} in {name!r}; {nearest(form, presets.PREFIXES, what='forms')}")
    if rest in presets.preset_names() and rest != presets.BASE:
        raise UserError(
            f"model {name!r}: {rest} is a preset; give {presets.BASE}, a checkpoint folder or a hub id behind {form}:"
        )
    base = describe(rest)
    mixer, window = presets.PREFIXES[form]
    made = {"model_type": "nha", "mixers": mixer, "windows": window}
    least = None if base.least_windows is None else least_windows(made | {"num_hidden_layers": len(base.least_windows)})
    digest = _digest([base.fingerprint, mixer])
    return ModelInfo(name, f"{form}:{base.label}", digest, own_window(made), base.max_length, base.needs, least)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def describe_folder(name: str, folder: Path) -> ModelInfo:
    """A checkpoint folder as `save_pretrained` leaves it. Raises UserError for what is missing or broken."""
    config = read_config(folder / "config.json", name)
    _refusing(name, "check_folder", folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = [folder / shard for shard in _refusing(name, "shard_names", read_config(index, name), index)]
    else:
        shards = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for path in (folder / "config.json", folder / "tokenizer.json", folder / "tokenizer_config.json"):
        if path.is_file():
            digest.update(path.read_bytes())
    for shard in shards:
        _add_shard(digest, shard, name)
    longest, own = config.get("max_position_embeddings"), own_window(config)
    needs = _needs_of_base(name, folder) if "base_model" in config else ()
    return ModelInfo(name, _label(folder), digest.hexdigest()[:16], own, longest, needs, **_layers(config, name))


def _label(folder: Path) -> str:
    """What tables call a checkpoint: its folder's name, or where that is `model`, as trainings leave it, the training's."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def _needs_of_base(name: str, folder: Path) -> tuple[str, ...]:
    """The assets that the base of a checkpoint kept apart from it needs. UserError where it names none."""
    from models.adapted import base_of
    from models.assets import SMOLLM2
    from models.errors import ModelUnavailable

    try:
        base = base_of(folder)
    except ModelUnavailable as problem:
        raise UserError(f"model {name!r}: {problem}") from problem
    return (SMOLLM2.name,) if base == "smollm2-135m" else ()


def _refusing(name: str, check: str, *arguments: Any) -> Any:
    """What a check of `models.folder` gives; UserError, naming the model, where it refuses."""
    from models import folder
    from models.errors import ModelUnavailable

    try:
        return getattr(folder, check)(*arguments)
    except ModelUnavailable as problem:
        raise UserError(f"model {name!r}: {problem}") from problem


def read_config(path: Path, name: str) -> dict[str, Any]:
    """A JSON object from a checkpoint. Raises UserError when it is missing or not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise UserError(
            f"model {name!r}: the folder holds no {path.name}: wanted is a folder that save_pretrained left"
        ) from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"model {name!r}: {path.name} is broken ({problem}): fetch or save the checkpoint again") from problem
    if not isinstance(content, dict):
        raise UserError(f"model {name!r}: {path.name} is no JSON object: fetch or save the checkpoint again")
    return content


def _add_shard(digest: Any, shard: Path, name: str) -> None:
    """Check a safetensors file's header and size, and add it to the digest."""
    again = "fetch or save the checkpoint again"
    try:
        size = shard.stat().st_size
        with shard.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if not 2 <= header_size <= size - 8:
                raise UserError(f"model {name!r}: {shard.name} is corrupt (no safetensors header): {again}")
            header = json.loads(file.read(header_size))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            wanted = 8 + header_size + max(ends, default=0)
            if size != wanted:
                raise UserError(
                    f"model {name!r}: {shard.name} is corrupt: it has {size} bytes where its header says {wanted}: {again}"
                )
            digest.update(f"{shard.name} {size}".encode())
            digest.update(json.dumps(header, sort_keys=True).encode())
            if size <= WHOLE:
                digest.update(file.read())
            else:
                for place in range(BLOCKS):
                    file.seek(8 + header_size + place * (size - 8 - header_size - BLOCK) // (BLOCKS - 1))
                    digest.update(file.read(BLOCK))
    except FileNotFoundError as problem:
        raise UserError(f"model {name!r}: the shard {shard.name} is missing: {again}") from problem
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        if isinstance(problem, UserError):
            raise
        raise UserError(f"model {name!r}: {shard.name} is corrupt (its header cannot be read): {again}") from problem


def own_window(config: dict[str, Any], name: str = "") -> Window:
    """The window that the configuration of the model `name` comes with: tokens, "full", "none" (no layer has windows), or
    "own" (its layers differ). UserError where it cannot be understood.
    """
    return _understood(_own_window, config, name)


def full_layers(config: dict[str, Any], name: str = "") -> tuple[int, ...]:
    """The layers with a full window, where others have a narrow one; none where all are alike. UserError where the
    configuration cannot be understood.
    """
    return _understood(_full_layers, config, name)


def _layers(config: dict[str, Any], name: str) -> dict[str, Any]:
    """What a ModelInfo says of the layers."""
    least = least_windows(config, name)
    return {"least_windows": least, "full_layers": () if least is None else full_layers(config, name)}


def least_windows(config: dict[str, Any], name: str = "") -> tuple[int | None, ...] | None:
    """The least window, in tokens, of each layer, None for a mixer without windows; None where the configuration does not say
    how many layers there are. UserError where it cannot be understood.
    """
    return _understood(_least_windows, config, name)


def _understood(find: Callable[[dict[str, Any]], Any], config: dict[str, Any], name: str) -> Any:
    # Asking the models imports torch.
    from models.configuration import check_sizes
    from models.foreign import is_foreign, translated

    try:
        config = translated(config, "it").fields if is_foreign(config) else config
        check_sizes(config)
        return find(config)
    except (ValueError, TypeError, AttributeError, KeyError) as problem:
        raise UserError(f"model {name!r}: config.json cannot be used: {problem}; give another checkpoint") from problem


def _own_window(config: dict[str, Any]) -> Window:
    windows = _windows(config)
    if not windows:
        return "none"
    distinct = set(windows.values())
    if len(distinct) > 1:
        return "own"
    return "full" if distinct == {None} else distinct.pop()


def _windows(config: dict[str, Any]) -> dict[int, int | None]:
    """The window of each layer that has one, by its number: tokens, None for full."""
    from models.mixers import mixer_class

    layers = config.get("num_hidden_layers") or 1
    if "mixers" in config:
        mixers, windows = (x if isinstance(x, list) else [x] * layers for x in (config["mixers"], config.get("windows")))
        pairs = enumerate(zip(mixers, windows, strict=False))
        found = {i: window for i, (mixer, window) in pairs if mixer_class(mixer).has_window}
    elif config.get("sliding_window") and config.get("use_sliding_window", True):
        kinds = config.get("layer_types") or ["sliding_attention"] * layers
        found = {i: config["sliding_window"] if kind == "sliding_attention" else None for i, kind in enumerate(kinds)}
    else:
        found = dict.fromkeys(range(layers))
    for window in found.values():
        if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 0):
            raise ValueError(f"a layer's window is {window!r}; wanted an integer >= 0, or null for all tokens")
    return found


def _full_layers(config: dict[str, Any]) -> tuple[int, ...]:
    windows = _windows(config)
    full = tuple(i for i, window in windows.items() if window is None)
    return full if len(full) < len(windows) else ()


def _least_windows(config: dict[str, Any]) -> tuple[int | None, ...] | None:
    from models.mixers import mixer_class

    # What has no mixers of its own is loaded as softmax attention.
    mixers, layers = config.get("mixers", "attention"), config.get("num_hidden_layers")
    if not isinstance(mixers, list):
        mixers = [mixers] * (layers or 0)
    kinds = [mixer_class(mixer) for mixer in mixers]
    return tuple(kind.smallest_window if kind.has_window else None for kind in kinds) or None


def describe_all(names: list[str], describe_one: Callable[[str], ModelInfo] = describe) -> list[ModelInfo]:
    """The spec's models, with labels that tell them apart: folders of the same name get their parent's in front."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the model {twice!r} is named twice: name it once, with all its windows")
    found = [describe_one(name) for name in names]
    labels = [info.label for info in found]
    for place, info in enumerate(found):
        if labels.count(info.label) > 1 and Path(info.name).expanduser().is_dir():
            label = "/".join(Path(info.name).expanduser().resolve().parts[-2:])
            found[place] = replace(info, label=label)
    labels = [info.label for info in found]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UserError(f"two models would both be called {twice!r} in the tables: rename one folder")
    return found
