"""What `hybridize --dry-run` says: counts against a model that is really built, FLOPs against torch's own counter."""

import pytest
import torch
from tiny_hybrid import LENGTH, place, spec_of  # noqa: F401
from torch.utils.flop_counter import FlopCounterMode

from models import NHAForCausalLM
from models.presets import preset_config
from nha_eval import cli
from nha_eval.hybridize.estimate import estimate
from nha_eval.hybridize.spec import SPECS, read_hybrid_spec
from nha_eval.hybridize.student import build_student
from nha_eval.spec import spec_names
from nha_eval.training.flops import forward_flops, measured_rate


@pytest.mark.parametrize(
    "changes",
    [
        {"train": "lora", "lora": {"rank": 3, "alpha": 6, "targets": ["q_proj", "o_proj"]}, "full_layers": [1]},
        {"train": "lora", "train_full_layers": False, "full_layers": [1], "slot_logits": "both"},
        {"train": "full"},
        {"train": "full", "full_layers": [0], "train_full_layers": False},
        {"train": "gates", "full_layers": [0]},
    ],
)
def test_what_is_trained_is_counted_as_it_is(place, changes):  # noqa: F811
    spec = spec_of(place, **changes)
    found, student = estimate(spec), build_student(spec).model
    sizes = {name: p.numel() for name, p in student.named_parameters()}
    assert found.trainable == sum(sizes[name] for name, p in student.named_parameters() if p.requires_grad)
    assert found.parameters == sum(n for name, n in sizes.items() if ".lora_" not in name)
    assert [stage["steps"] for stage in found.stages] == [8, 8]


@pytest.mark.parametrize("model", ["transformer++-tiny", "nha-tiny"])
def test_forward_flops_against_torchs_counter(model):
    """Products of weights are what the counter counts; attention goes by kernels of which it knows some, so it is left out."""
    config = preset_config(model)
    built = NHAForCausalLM(config).eval()
    counts = {name: p.numel() for name, p in built.named_parameters()}
    tokens = torch.zeros(1, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(tokens)
    linear = sum(
        flops
        for module, found in counter.get_flop_counts().items()
        if module.endswith(("_proj", "lm_head"))
        for flops in found.values()
    )
    of_weights = forward_flops(config, counts, LENGTH) - (forward_flops(config, dict.fromkeys(counts, 0), LENGTH))
    assert linear == pytest.approx(of_weights * LENGTH, rel=1e-9)


def test_shipped_specs_can_be_estimated(capsys):
    assert {"nha-smollm2-135m", "nha-llama-3-8b", "nha-qwen2.5-7b"} <= set(spec_names(SPECS))
    for name in ("nha-llama-3-8b", "nha-qwen2.5-7b"):
        _, spec = read_hybrid_spec(name, {})
        assert all(stage["steps"] > 100 and stage["gpu_bytes"] < 141e9 for stage in estimate(spec).stages)
    assert cli.run(["hybridize", "nha-llama-3-8b", "--dry-run"]) == 0
    out = capsys.readouterr().out
    # 8.03 G weights, and gates of 4096 * 8 * 64 weights and 512 biases in each of 32 layers.
    assert "8,097.4 M parameters" in out and "TFLOP/s a GPU, measured in bench-model-" in out


def test_a_rate_is_read_out_of_the_table(tmp_path):
    assert measured_rate(folder=tmp_path) == (None, None)
    row = "phase,status,model,size,window,length,batch,tokens_per_s,device\ntrain,ok,nha,tiny,64,512,2,1000,a GPU\n"
    (tmp_path / "bench-model-x.csv").write_text(
        row + "train,oom,nha,tiny,64,512,9,9000,a GPU\ntrain,ok,gsa,tiny,full,512,2,9000,a GPU\n"
    )
    rate, source = measured_rate(folder=tmp_path)
    config = preset_config("nha-tiny")
    with torch.device("meta"):
        counts = {name: p.numel() for name, p in NHAForCausalLM(config).named_parameters()}
    config.windows = [64] * config.num_hidden_layers
    assert rate == pytest.approx(3000 * forward_flops(config, counts, 512))
    assert source == "bench-model-x.csv: nha tiny, 2 x 512 tokens, a GPU"
    # A faster step of another size is taken only where this size was not measured.
    (tmp_path / "bench-model-y.csv").write_text(row.splitlines()[0] + "\ntrain,ok,nha,340m,64,512,2,1000,a GPU\n")
    assert measured_rate(folder=tmp_path)[1].startswith("bench-model-y.csv: nha 340m")
    assert measured_rate(size="tiny", folder=tmp_path) == (rate, source)
    assert measured_rate(size="1.3b", folder=tmp_path) == measured_rate(folder=tmp_path)
