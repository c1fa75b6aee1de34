"""What the autotuner chose is told of, and told apart; with Triton's own class, its choice put in by hand."""

import sys

import pytest

from nha_eval.tuning import tuning


def made():
    triton = pytest.importorskip("triton")
    configs = [triton.Config({"BLOCK": size}, num_warps=warps) for size, warps in ((32, 2), (64, 4))]

    @triton.autotune(configs, key=["n"])
    @triton.jit
    def tuned_kernel_of_a_test(x, n, BLOCK: "triton.language.constexpr"):
        pass

    return tuned_kernel_of_a_test, configs


def test_choices_are_told_and_told_apart(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernel, configs = made()
    mine = lambda: {k: v for k, v in (tuning() or {"choices": {}})["choices"].items() if "of_a_test" in k}  # noqa: E731
    assert mine() == {}
    prints = []
    for config in configs:
        kernel.cache[(1024, "torch.bfloat16")] = config
        ((name, choice),) = mine().items()
        assert name == "tuned_kernel_of_a_test (1024, 'torch.bfloat16')" and f"BLOCK: {config.kwargs['BLOCK']}" in choice
        prints.append(tuning()["fingerprint"])
    kernel.cache[(1024, "torch.bfloat16")] = configs[0]
    assert prints[0] != prints[1] and tuning()["fingerprint"] == prints[0]


def test_without_triton_there_is_nothing_to_tell(monkeypatch):
    monkeypatch.delitem(sys.modules, "triton.runtime.autotuner", raising=False)
    assert tuning() is None
