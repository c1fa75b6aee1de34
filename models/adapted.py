"""A hybrid kept apart from its base: what training changed (gates, LoRA), in safetensors of a few MB beside the base's name.

    save_adapted(student, "my-hybrid", base="smollm2-135m", lora=settings)
    model = load_adapted("my-hybrid")              # so do load_pretrained and AutoModelForCausalLM.from_pretrained

The folder holds `config.json`, this package's configuration with `base_model` (name, digest of its weights) and `adapter` (its
rank and targets), and `adapter.safetensors`. LoRA is PEFT's, merged into the weights when loaded. A base that is not the one
of the training is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.configuration import NHAConfig
from models.convert import as_dtype, build_converted, read_config
from models.errors import ModelUnavailable
from models.folder import check_folder, read_object
from models.hub import hub_folder
from models.modeling import NHAForCausalLM

WEIGHTS = "adapter.safetensors"
# Parts of the names of what conversion adds to a base.
GATE_PARTS = (".g_proj.", ".slot_logits.")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
# Of a base's weights, those that its digest is made of: others are as good, and reading all would take minutes at 8B.
DIGESTED = (".k_proj.weight", ".v_proj.weight")


@dataclass(frozen=True)
class Lora:
    """Low-rank changes (Hu et al., arXiv 2106.09685) of the projections in `targets`, alpha / rank times B A; rank 0: none."""

    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] = PROJECTIONS

    def __post_init__(self):
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 0 <= self.rank <= 4096:
            raise ValueError(f"the adapter's rank is {self.rank!r}; wanted an integer from 0 to 4096")
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 <= self.alpha < math.inf:
            raise ValueError(f"the adapter's alpha is {self.alpha!r}; wanted a number >= 0")
        if not isinstance(self.targets, list | tuple) or not set(self.targets) <= set(PROJECTIONS) or not self.targets:
            raise ValueError(f"the adapter's targets are {self.targets!r}; wanted some of {', '.join(PROJECTIONS)}")
        object.__setattr__(self, "targets", tuple(self.targets))


def add_lora(model: NHAForCausalLM, lora: Lora, layers: list[int] | None = None):
    """Puts PEFT's layers over the projections of attention, in place; layers: their indices, None for all.

    Returns PEFT's tuner, whose `merge_and_unload()` makes plain weights of them again; None for rank 0.
    """
    if not lora.rank:
        return None
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer, LoraModel

    chosen = range(len(model.decoder_layers)) if layers is None else layers
    names = [f"model.layers.{i}.self_attn.{name}" for i in chosen for name in lora.targets]
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names)
    tuner = LoraModel(model, config, "default")
    for module in model.modules():
        if isinstance(module, LoraLayer):
            # Under autocast what is cast to the adapter's dtype is cast back at once, a whole activation twice each layer.
            module.cast_input_dtype_enabled = False
    return tuner


def save_adapted(
    model: NHAForCausalLM,
    folder: str | Path,
    *,
    base: str,
    lora: Lora,
    gate_scale: float,
    dtype: str | torch.dtype = "bfloat16",
) -> None:
    """Writes what is trainable of `model` (its parameters that take gradients), rounded to `dtype`, and its configuration.

    base: what it was converted from: `smollm2-135m`, a checkpoint's folder or a hub id. gate_scale: as it was converted with.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: p.detach().to("cpu", as_dtype(dtype)).contiguous() for name, p in model.named_parameters() if p.requires_grad
    }
    save_file(tensors, folder / WEIGHTS)
    # The library leaves it to its owner alone.
    (folder / WEIGHTS).chmod(0o644)
    fields = {
        key: value for key, value in model.config.to_dict().items() if key not in ("dtype", "torch_dtype", "_name_or_path")
    }
    fields["base_model"] = {"name": base, "digest": weights_digest(base_folder(base))}
    layers = sorted({int(name.split(".")[2]) for name in tensors if ".lora_" in name})
    fields["adapter"] = {**asdict(lora), "layers": layers, "gate_scale": gate_scale}
    fields["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def is_adapted(path: str | Path) -> bool:
    """Whether a folder's configuration names a base that its weights are to be laid over."""
    file = Path(path) / "config.json"
    return file.is_file() and "base_model" in read_object(file, wanted=False)


def base_of(path: str | Path) -> str:
    """The name of the base of an adapted checkpoint. ModelUnavailable where it gives none."""
    about = read_object(Path(path) / "config.json").get("base_model")
    if not isinstance(about, dict) or not isinstance(about.get("name"), str) or not isinstance(about.get("digest"), str):
        raise ModelUnavailable(f"{path}: base_model in config.json is {about!r}; wanted a name and a digest")
    return about["name"]


def base_folder(name: str) -> Path:
    """The folder of a base: a pretrained preset's, a folder, or one from the hub. ModelUnavailable where it cannot be had."""
    if name == "smollm2-135m":
        from models.assets import smollm2_folder

        return smollm2_folder()
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return hub_folder(name)
    raise ModelUnavailable(f"the base {name!r} is neither smollm2-135m nor a folder here nor a name on the hub (owner/name)")


def weights_digest(folder: Path) -> str:
    """16 hex digits over the values, in fp32, of the key and value projections of a checkpoint's first and last layer."""
    found: dict[str, tuple[Path, str]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as shard:
                found |= {name: (file, name) for name in shard.keys() if name.endswith(DIGESTED)}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelUnavailable(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    numbers = sorted({int(part) for name in found for part in name.split(".") if part.isdigit()})
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(found):
        if numbers and f".{numbers[0]}." not in name and f".{numbers[-1]}." not in name:
            continue
        with safe_open(found[name][0], "pt") as shard:
            weight = shard.get_tensor(name).float().contiguous()
        digest.update(f"{name} {list(weight.shape)}".encode() + weight.numpy().tobytes())
    return digest.hexdigest()


def load_adapted(path: str | Path, *, dtype: str | torch.dtype = "float32") -> NHAForCausalLM:
    """The model of an adapted checkpoint, its changes merged into the weights, in eval mode.

    Raises ModelUnavailable (a ValueError) where the base cannot be had or is another, or weights are missing or do not fit.
    """
    path, dtype = check_folder(path), as_dtype(dtype)
    fields = read_object(path / "config.json")
    folder = check_folder(base_folder(base_of(path)))
    digest = weights_digest(folder)
    if digest != fields["base_model"]["digest"]:
        wanted = fields["base_model"]["digest"]
        raise ModelUnavailable(f"{path} was trained on other weights than {folder} holds (digest {wanted}, not {digest})")
    try:
        about = dict(fields.pop("adapter"))
        layers, gate_scale = about.pop("layers"), float(about.pop("gate_scale"))
        lora = Lora(**about)
        config = adapted_config(fields)
        if any(i not in range(config.num_hidden_layers) for i in layers):
            raise ValueError(f"the adapter's layers are {layers}; wanted indices below {config.num_hidden_layers}")
    except (KeyError, TypeError, ValueError, ArithmeticError, StrictDataclassError) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelUnavailable(f"{path / 'config.json'} cannot be used: {told}") from error
    read_config(folder)
    model = build_converted(folder, config, dtype, gate_scale)
    tuner = add_lora(model, lora, layers)
    lay_over(model, path / WEIGHTS, wanted=[name for name, _ in model.named_parameters() if ".lora_B." in name])
    model = model if tuner is None else tuner.merge_and_unload()
    return model.eval()


def adapted_config(fields: dict) -> NHAConfig:
    """The model's configuration, of the fields of an adapted checkpoint's config.json."""
    return NHAConfig(**{key: value for key, value in fields.items() if key not in ("base_model", "model_type", "adapter")})


@torch.no_grad()
def lay_over(model: nn.Module, file: Path, wanted: list[str]) -> None:
    """Puts the tensors of a safetensors file in the place of the parameters of these names.

    Raises ModelUnavailable where the file cannot be read, holds a name or a shape that the model has not, or lacks one that is
    wanted.
    """
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelUnavailable(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        if name not in parameters:
            raise ModelUnavailable(f"{file} holds {name}, which the model does not have")
        if parameters[name].shape != tensor.shape:
            shapes = f"{list(tensor.shape)}; wanted {list(parameters[name].shape)}"
            raise ModelUnavailable(f"{file}: {name} has shape {shapes}")
        parameters[name].copy_(tensor)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ModelUnavailable(f"{file} lacks {missing[0]}, which is to be trained by its configuration")
