"""Models of these tests are so small that threads only wait for each other."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def tiny_models(one_thread):
    pass
