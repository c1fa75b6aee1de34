"""Fixtures of the tests of `bench model`, for those that ask for them."""

import gc

import pytest


@pytest.fixture(scope="module")
def little_garbage():
    """Each row collects garbage, which takes long over all that was imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def steady_bench_model(monkeypatch):
    """Small ceilings and searches; and sources that nobody edits while a test runs."""
    from nha_eval.bench import model, model_measure

    monkeypatch.setattr(model, "source_digest", lambda: "these")
    monkeypatch.setattr("nha_eval.bench.ceilings.COPY_BYTES", {"cuda": 2**30, "cpu": 2**20})
    monkeypatch.setattr("nha_eval.bench.ceilings.MATMUL_SIZE", {"cuda": 8192, "cpu": 64})
    monkeypatch.setattr(model_measure, "MOST_SEQUENCES", {"cuda": 8192, "cpu": 4})
    monkeypatch.setattr(model_measure, "LONGEST_TRIED", {"cuda": 2**20, "cpu": 2048})
