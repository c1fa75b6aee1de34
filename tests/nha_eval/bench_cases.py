"""Cases of `bench op` for its tests, of a shape whose dimensions are all unlike."""

import torch

from nha_eval.bench.grid import Case
from nha_eval.bench.setting import Draw
from nha_eval.bench.shapes import Shape

CPU = torch.device("cpu")
ODD = Shape("odd", 2, 6, 3, 8, 4, 5, "every dimension unlike the others")


def case(name="nha", phase="forward", shape=ODD, length=13, window=4, batch=None):
    return Case(name, phase, shape, batch or shape.batch, length, window)


def draw():
    return Draw(0, CPU, torch.float32)
