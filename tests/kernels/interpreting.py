"""Kernels under Triton's interpreter, which must be asked for before triton is first imported: in processes of their own, which
all test files share. A test's parameter `interpreted` is what such a process is to call, a function and its arguments.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch


def poison(patch):
    """Fresh allocations hold NaN, so that what is read unwritten shows."""
    for place, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        make = getattr(place, name)

        def made(*args, make=make, **kwargs):
            x = make(*args, **kwargs)
            return x.fill_(torch.nan) if x.is_floating_point() else x

        patch(place, name, made)


def interpret():
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    poison(setattr)


@pytest.fixture(scope="session")
def interpreters():
    """Two processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context, initializer=interpret) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def answers(request, interpreters):
    """What every selected test of the file asks for, as futures by their parameters."""
    wanted = [item for item in request.session.items if item.path == request.path and "interpreted" in item.fixturenames]
    jobs = [item.callspec.params["interpreted"] for item in wanted]
    found = {job: interpreters.submit(*job) for job in jobs}
    yield found
    for future in found.values():
        future.cancel()
