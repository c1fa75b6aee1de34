"""Products of few rows against torch's own steps in fp64, and whole models' decode steps with and without them; interpreted
without a GPU, in processes of their own, as in `interpreting`.
"""

import importlib.util
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from nha_cases import over

from kernels import few_rows

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
EPS = 1e-5


@dataclass(frozen=True)
class Rows:
    """Rows of x [rows, 1, width], and of the weights."""

    rows: int
    width: int
    sizes: tuple[int, ...]
    tile: tuple | None = None  # in the place of the one that would be chosen

    def __str__(self):
        return f"R{self.rows}-K{self.width}-N{'.'.join(map(str, self.sizes))}{'-tile' * bool(self.tile)}{self.tile or ''}"


CASES = [Rows(1, 64, (48, 16, 16, 7)), Rows(3, 100, (33,)), Rows(4, 576, (130, 5)), Rows(2, 1100, (64, 9, 2))]
# BN, BK, AHEAD, KEEP, programs: one program for all blocks; more asked for than there are; a last turn with less to do than the
# others; a program a block.
TILES = [
    Rows(1, 104, (37, 6, 9), (4, 64, 2, True, 1)),
    Rows(2, 96, (5,), (4, 32, 3, True, 1)),
    Rows(3, 100, (37, 6, 9), (8, 64, 1, False, 2)),
    Rows(4, 72, (33, 17), (4, 64, 3, True, 3)),
    Rows(1, 100, (37, 6, 9, 1), (8, 128, 2, False, None)),
]
# Two elements a word, and one where rows begin within a word.
HALF = [(TILES[0], torch.float16), (TILES[3], torch.float16), (Rows(2, 33, (20, 5)), torch.float16)]
REAL = [Rows(1, 2048, (2048,) * 4), Rows(4, 2048, (5120,)), Rows(2, 5120, (2048,)), Rows(3, 576, (576, 192, 192, 96))]


@contextmanager
def tiled(tile: tuple | None):
    """A tile for every product, if one is given."""
    from kernels import few_rows_triton

    chosen = few_rows_triton.choose_tile
    if tile is not None:
        few_rows_triton.choose_tile = lambda *_: few_rows_triton.Tile(*tile)
    try:
        yield
    finally:
        few_rows_triton.choose_tile = chosen


def differences(case: Rows, dtype=torch.float32, device="cpu") -> dict[str, float]:
    """RMS of the difference from fp64 over RMS, of each way to call them."""
    gen = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=gen).to(device, dtype)  # noqa: E731
    x, weights = randn(case.rows, 1, case.width), [randn(n, case.width) / case.width**0.5 for n in case.sizes]
    scale, residual = randn(case.width), randn(case.rows, 1, case.sizes[0])
    up = randn(*weights[0].shape) / case.width**0.5
    after = ["silu", None, "logsigmoid", None][: len(weights)]
    biases = [None if i % 2 else randn(n) for i, n in enumerate(case.sizes)]
    with torch.no_grad(), tiled(case.tile):
        found = dict(enumerate(few_rows.linear(x, weights, biases=biases, norm=(scale, EPS), after=after, divisor=8.0)))
        found["residual"] = few_rows.linear(x, weights[:1], residual=residual)[0]
        found["before"] = few_rows.linear(x, weights[:1], norm=(scale, EPS), before="silu", residual=residual)[0]
        found["glu"] = few_rows.glu(x, weights[0], up, norm=(scale, EPS))
    assert all(y.dtype == dtype for y in found.values())
    x, scale, residual, up, *weights = (t.double() for t in (x, scale, residual, up, *weights))
    normed = F.rms_norm(x, (case.width,), scale, EPS)
    follow = {None: lambda y: y, "silu": F.silu, "logsigmoid": lambda y: F.logsigmoid(y) / 8}
    ways = zip(after, weights, biases, strict=True)
    wanted = dict(enumerate(follow[name](normed @ w.T + (0 if b is None else b.double())) for name, w, b in ways))
    wanted["residual"] = x @ weights[0].T + residual
    wanted["before"] = F.rms_norm(F.silu(x), (case.width,), scale, EPS) @ weights[0].T + residual
    wanted["glu"] = F.silu(normed @ weights[0].T) * (normed @ up.T)
    return {str(name): float((found[name] - y).norm() / y.norm()) for name, y in wanted.items()}


def steps(pattern: str) -> dict[str, float]:
    """Largest difference of the logits of decode steps by these kernels from those by torch's: of one row, of two, padded, and
    of two in a cache of fixed shapes."""
    from models import NHAForCausalLM
    from models.presets import preset_config

    torch.manual_seed(0)
    model = NHAForCausalLM(preset_config(f"{pattern}-tiny")).eval()
    taken, takes, found = [], few_rows.takes, {}
    ids = torch.randint(0, 200, (2, 22), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    for way in (takes, lambda x: False):
        logits = []
        watched = mock.patch.object(few_rows, "takes", lambda x, way=way: way(x) and bool(taken.append(x.shape) or True))
        with torch.no_grad(), watched:
            for rows, given, most in ((1, None, None), (2, mask, None), (2, None, 22)):
                cache = model.new_cache(most)
                model(ids[:rows, :20], attention_mask=given if given is None else given[:, :20], cache=cache, use_cache=True)
                for t in range(20, 22):
                    seen = given if given is None else given[:, : t + 1]
                    out = model(ids[:rows, t : t + 1], attention_mask=seen, cache=cache, use_cache=True)
                    logits.append(out.logits.flatten())
        found[way is takes] = torch.cat(logits)
    # Each layer and the head, and where shapes are fixed what a step begins with.
    assert len(taken) == 3 * 2 * (model.config.num_hidden_layers + 1) + 2
    return {"logits": float((found[True] - found[False]).abs().max())}


@pytest.mark.parametrize("interpreted", [(differences, case) for case in [*CASES, *TILES]], ids=lambda x: str(x[1]))
def test_products(interpreted, answers):
    errors = answers[interpreted].result()
    assert not over(errors, 1e-5)


@pytest.mark.parametrize("interpreted", [(differences, *case) for case in HALF], ids=lambda x: str(x[1]))
def test_products_in_half_precision(interpreted, answers):
    errors = answers[interpreted].result()
    assert not over(errors, 1e-3)


@pytest.mark.parametrize(
    "interpreted",
    [
        pytest.param((steps, name), marks=[] if name in ("nha", "swa") else [pytest.mark.slow], id=name)
        for name in ("nha", "nha-2026", "nha-h", "swa", "transformer++", "gsa", "gla")
    ],
)
def test_models_step_alike(interpreted, answers):
    assert answers[interpreted].result()["logits"] < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 4e-3), (torch.float16, 1e-3), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("case", [*CASES, *TILES, *REAL], ids=str)
def test_products_on_a_gpu(case, dtype, bound):
    errors = differences(case, dtype, "cuda")
    assert not over(errors, bound)


REPLAYS = 20


def replayed(pattern: str, size: str, batch: int) -> dict[str, bool]:
    """Whether each replay of two layers' decode step, and the states after the last, are bit for bit those without a graph."""
    from models import NHAForCausalLM
    from models.presets import preset_config

    config = preset_config(f"{pattern}-{size}")
    config.num_hidden_layers, config.mixers, config.windows = 2, config.mixers[:2], config.windows[:2]
    torch.manual_seed(0)
    # Without the head, whose product is torch's own and may be another's in a graph.
    model = NHAForCausalLM(config).to("cuda", torch.bfloat16).eval().model
    ids = torch.randint(0, config.vocab_size, (batch, 70 + REPLAYS), device="cuda")
    with torch.no_grad():
        caches = [model.new_cache(max_length=128) for _ in range(3)]
        for cache in caches:
            model(ids[:, :70], cache=cache, use_cache=True)
        eager, held, warm = caches
        token = ids[:, 70:71].clone()
        for _ in range(2):
            model(token, cache=warm, use_cache=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(token, cache=held, use_cache=True).last_hidden_state
        found = {}
        for t in range(70, 70 + REPLAYS):
            token.copy_(ids[:, t : t + 1])
            graph.replay()
            wanted = model(ids[:, t : t + 1], cache=eager, use_cache=True).last_hidden_state
            found[f"token {t}"] = torch.equal(out, wanted)
    kept = eager.tensors()
    return found | {name: torch.equal(x, kept[name]) for name, x in held.tensors().items()}


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("size", ["tiny", "1.3b"])
@pytest.mark.parametrize("pattern", ["nha", "swa", "gsa"])
def test_a_captured_step_has_the_same_bits(pattern, size, batch):
    found = replayed(pattern, size, batch)
    assert all(found.values()), [name for name, same in found.items() if not same]


@pytest.mark.parametrize("width", [64, 100, 576, 1024, 2048, 2816, 5120, 5632])
def test_tiles_fit_registers(width):
    from kernels.few_rows_triton import choose_tile

    for rows, weights, itemsize in product((1, 2, 3, 4), (1, 2), (2, 4)):
        tile = choose_tile(width, rows, weights, itemsize, True)
        padded = -(-width // tile.BK) * tile.BK
        # All warps load, and no thread's share of a row of x or of the blocks asked for is more than it could hold.
        assert tile.BN * tile.BK * itemsize >= 32 * 16
        assert tile.AHEAD * tile.BN * padded * itemsize * weights <= 32 * 1024 or tile.BN == 1
        assert padded < 2 * max(width, 256)


def test_what_is_taken(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x = torch.zeros(4, 1, 8)
    assert not few_rows.takes(x)  # a gradient may be wanted
    with torch.no_grad():
        assert few_rows.takes(x)
        assert not few_rows.takes(torch.zeros(5, 1, 8))
        assert not few_rows.takes(x.double())
        with torch.autocast("cpu"):
            assert not few_rows.takes(x)
        monkeypatch.delenv("TRITON_INTERPRET")
        assert not few_rows.takes(x)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": torch.zeros(5, 8)}, "x has 5 rows; wanted at most 4"),
        ({"weights": [torch.zeros(3, 9)]}, r"a weight has shape \[3, 9\], torch.float32; wanted \[N, 8\], contiguous"),
        ({"weights": [torch.zeros(3, 8)] * 5}, "5 weights were given; wanted 1 to 4"),
        ({"residual": torch.zeros(1, 4)}, "a residual wants one weight, and the shape of its product"),
    ],
)
def test_wrong_arguments(change, said):
    given = {"x": torch.zeros(1, 8), "weights": [torch.zeros(3, 8)], "residual": None} | change
    with pytest.raises(ValueError, match=said):
        few_rows.linear(given["x"], given["weights"], residual=given["residual"])
