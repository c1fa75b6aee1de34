"""Weights that FSDP shares out among the processes of a launch: what is taken of its settings, and tensors made whole again.

check_sharing()                                  # UserError for settings that cannot work
tensors = whole(model.named_parameters())        # by all processes, as each holds a part
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from torch.distributed.tensor import DTensor, distribute_tensor

from nha_eval.errors import UserError


def shared_out() -> bool:
    """Whether the launch asks for FSDP."""
    return _set("ACCELERATE_USE_FSDP")


def _set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def check_sharing() -> None:
    """Raises UserError for an FSDP configuration that a training cannot go by."""
    if not shared_out():
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(f"FSDP of version {version} is not taken: give fsdp_version: 2 in accelerate's configuration")
    for setting, variable in (
        ("fsdp_offload_params", "FSDP_OFFLOAD_PARAMS"),
        ("fsdp_activation_checkpointing", "FSDP_ACTIVATION_CHECKPOINTING"),
    ):
        if _set(variable):
            raise UserError(f"{setting} is not taken: give {setting}: false in accelerate's configuration")
    # Each process makes the weights itself; with this the first alone would read them, and tied weights come apart.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def set_sharing(plugin: Any, units: Iterable[str]) -> None:
    """units: the classes of modules whose weights are gathered together, each when it is called.

    Weights are gathered and gradients added up in fp32, as without sharing: accelerate would round these, and the losses.
    """
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = list(units)
    plugin.mixed_precision_policy = MixedPrecisionPolicy()


def whole(named: Iterable[tuple[str, Tensor]], keep: bool = True) -> dict[str, Tensor]:
    """The tensors on the CPU, none of them in parts; all processes call it alike, and those that do not `keep` get nothing."""
    found = {}
    for name, tensor in named:
        full = _whole(tensor.detach())
        if keep:
            found[name] = full.cpu().contiguous()
    return found


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_parameters(model: nn.Module, names: set[str], keep: bool = True) -> dict[str, Tensor]:
    """`whole` of the parameters of these names."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # After measuring some are gathered still.
            module.reshard()
    return whole(((name, p) for name, p in sorted(dict(model.named_parameters()).items()) if name in names), keep)


@torch.no_grad()
def lay_into(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies whole tensors into the parameters of their names, which may be shared out."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].copy_(_dealt(tensor, parameters[name]))


def _dealt(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which each process has, shared out as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def whole_state(optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Any]:
    """The optimizer's state as it would be without sharing; as of `whole`."""
    state = optimizer.state_dict()
    found = {number: whole(own.items(), keep) for number, own in sorted(state["state"].items())}
    return {**state, "state": found}


def dealt_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's whole state, shared out as its parameters are; before it takes it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    dealt = {
        number: {key: _dealt(value, parameters[number]) if value.shape else value for key, value in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": dealt}
