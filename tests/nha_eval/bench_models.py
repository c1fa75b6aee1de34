"""What the tests of `bench model` share: tiny models and cases."""

from pathlib import Path

import torch

from nha_eval import cli
from nha_eval.bench import families
from nha_eval.bench.model_grid import ModelCase
from nha_eval.bench.model_measure import ModelMeter, RowBudget
from nha_eval.bench.setting import Draw

ROOT = Path(cli.__file__).parent.parent
CPU = torch.device("cpu")
HERE = tuple(name for name in families.names() if families.find(name).refusal(name, CPU) is None)
SHORT = RowBudget(seconds=0.01, repeats=3)


def draw():
    return Draw(0, CPU, torch.float32)


def tiny(name):
    return families.find(name), families.random_model(name, "tiny", CPU, torch.float32, 0)


def case(name="nha", phase="prefill", length=24, batch=1, window="16", checkpointing=None):
    return ModelCase(name, "tiny", phase, length, batch, window, False if phase == "train" else checkpointing)


def measured(*cases, budget=SHORT):
    return list(ModelMeter(CPU, torch.float32, 0, budget, gbps=10.0).measure(list(cases)))
