"""What "auto" stands for inside a block: every operator goes there, a named backend does not, and it ends with the block."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from kernels import gated_delta_attention, gla_attention, nha_attention, sliding_window_attention, ssd_attention
from kernels.standing import auto_backend


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 20, 2, *shape, generator=generator) for shape in shapes]


def nha(**more):
    q, k, v, g = tensors((8,), (8,), (8,), (4,))
    return nha_attention(q, k, v, F.logsigmoid(g), 5, **more)


def sliding(**more):
    return sliding_window_attention(*tensors((8,), (8,), (8,)), 5, **more)


def gla(**more):
    q, k, v, g = tensors((8,), (8,), (8,), (8,))
    return gla_attention(q, k, v, F.logsigmoid(g), **more)


def gated_delta(**more):
    q, k, v, g, beta = tensors((8,), (8,), (8,), (), ())
    return gated_delta_attention(q, k, v, F.logsigmoid(g), beta.sigmoid(), l2_norm=True, **more)


def ssd(**more):
    q, k, v, g, dt = tensors((8,), (8,), (8,), (), ())
    return ssd_attention(q, k, v, F.logsigmoid(g), dt.sigmoid(), **more)


CALLS = {"nha": nha, "sliding_window": sliding, "gla": gla, "gated_delta": gated_delta, "ssd": ssd}
# A sliding window is NHA's walk without slots.
MODULES = {"nha": "nha.op", "sliding_window": "nha.op"}


@pytest.fixture
def forms(monkeypatch, request):
    """Which form the operator ran, in order."""
    name = request.getfixturevalue("name")
    module, ran = importlib.import_module(f"kernels.{MODULES.get(name, name)}"), []

    def noted(form, right):
        def run(*arguments, **settings):
            ran.append(form)
            return right(*arguments, **settings)

        return run

    for form in ("recurrent", "chunked"):
        monkeypatch.setattr(module, form, noted(form, getattr(module, form)))
    return ran


@pytest.mark.parametrize("name", CALLS)
def test_auto_is_what_the_block_says_and_a_named_backend_is_honoured(name, forms):
    call = CALLS[name]
    call()
    with auto_backend("recurrent"):
        call()
        call(backend="chunked")
        with auto_backend("chunked"):
            call()
        call()
    call()
    assert forms == ["chunked", "recurrent", "chunked", "chunked", "recurrent", "chunked"]


@pytest.mark.parametrize("name", ["gla"])
def test_it_ends_with_the_block_though_that_fails(name, forms):
    with pytest.raises(KeyError), auto_backend("recurrent"):
        raise KeyError
    gla()
    assert forms == ["chunked"]


@pytest.mark.parametrize("name", ["triton", "fla", "auto", None])
def test_only_forms_that_are_everywhere(name):
    with pytest.raises(ValueError, match="wanted one of 'recurrent', 'chunked'"), auto_backend(name):
        pass
