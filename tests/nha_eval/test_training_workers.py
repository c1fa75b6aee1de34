"""Trainings in several processes: which GPU each of them sees."""

import os
import time
from collections import deque

import pytest

from nha_eval.gpus import visible_gpus
from nha_eval.training.workers import Job, gpus_of, results


def seen(_number: int) -> str | None:
    """What a job sees, after long enough for another process to take the next."""
    time.sleep(0.5)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("gpus, expected", [(["7", "5"], {"7", "5"}), (["7"], {"7"}), ([], {"3"})])
def test_workers_are_dealt_out_to_the_gpus(gpus, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    jobs = [Job((number,)) for number in range(6)]
    assert {gpu for _, gpu in results(seen, deque(jobs), 2, gpus)} == expected
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_a_named_gpu_is_for_all(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-8f,")
    assert visible_gpus() == gpus_of("auto") == gpus_of("cuda") == ["3", "GPU-8f"]
    assert gpus_of("cuda:1") == gpus_of("cpu") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
