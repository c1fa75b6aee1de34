"""A training step as a CUDA graph does what the step itself does."""

import csv

import pytest
import torch
from safetensors.torch import load_file
from tiny_hybrid import place, spec_of  # noqa: F401

from nha_eval.hybridize.stages import hybridize
from nha_eval.training import graphed

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("mixer", ["nha", "attention"])
def test_a_hybrid_is_the_same_with_and_without_a_graph(place, tmp_path, monkeypatch, mixer):  # noqa: F811
    made, real = [], graphed.graphed
    monkeypatch.setattr(graphed, "graphed", lambda *arguments: made.append(arguments) or real(*arguments))
    found = []
    for graph in (True, False):
        spec = spec_of(place, device="cuda", dtype="float32", train="lora", full_layers=[1], mixer=mixer, cuda_graph=graph)
        hybridize(spec, tmp_path / str(graph))
        with (tmp_path / str(graph) / "train.csv").open(newline="") as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        found.append((losses, load_file(tmp_path / str(graph) / "distill" / "trained.safetensors")))
    assert len(made) == 2  # a graph each stage, and none without
    (losses, weights), (plain_losses, plain_weights) = found
    assert losses == pytest.approx(plain_losses, rel=1e-3)
    for name, weight in weights.items():
        assert (weight - plain_weights[name]).norm() <= 1e-2 * plain_weights[name].norm().clamp(min=1e-3), name


def test_a_step_that_cannot_be_captured_leaves_the_gpu_as_it_was(capsys):
    """A value that the host reads: the line names it, and numbers are drawn and other steps captured as before."""

    class Asks(torch.nn.Module):
        def __init__(self, asks):
            super().__init__()
            self.weight, self.asks = torch.nn.Parameter(torch.ones(3, device="cuda")), asks

        def forward(self, input_ids):
            loss = (self.weight * input_ids).square().sum()
            return loss * (1 + int(loss.item() > 0)) if self.asks else loss

    ids, before = torch.arange(3, device="cuda")[None], torch.cuda.current_stream()
    assert graphed.captured(Asks(True), ids, torch.float32) is None
    assert "captur" in capsys.readouterr().err and torch.cuda.current_stream() == before
    assert torch.randn(4, device="cuda").isfinite().all()
    call = graphed.captured(Asks(False), ids, torch.float32)
    assert call is not None and call(ids).item() == 5
