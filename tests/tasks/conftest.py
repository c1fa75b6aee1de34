"""Tasks are tested on stand-ins for the fetched data, so that nothing is downloaded."""

import examples
import pytest

from tasks import bigbench, squad


@pytest.fixture
def small_data(monkeypatch):
    """BIG-bench's files replaced by a few examples each."""
    monkeypatch.setattr(bigbench, "bigbench_examples", examples.choice_task)
    monkeypatch.setattr(squad, "bigbench_examples", lambda task: examples.disfl_qa())
    squad.passages.cache_clear()
    yield
    squad.passages.cache_clear()
