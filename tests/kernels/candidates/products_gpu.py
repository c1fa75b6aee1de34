"""Times the products of few rows, old and new in many tiles, then decode steps: PYTHONPATH=. python tests/kernels/candidates/products_gpu.py"""

import argparse
import csv
import itertools
import multiprocessing
import os
import statistics
import sys
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "tests/kernels")]

import old_few_rows_triton as old
import torch
import torch.nn.functional as F

import kernels
import kernels.few_rows_triton as few
from kernels.few_rows import glu, linear
from kernels.nha.triton import launch

began = time.perf_counter()
parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, default=95.0)
parser.add_argument("--compile-seconds", type=float, default=45.0)
parser.add_argument("--length", type=int, default=2048)
parser.add_argument("--layers", type=int, default=24)
options = parser.parse_args()
OUT = Path(os.environ.get("OUT", HERE))
new = {name: getattr(few, name) for name in ("launch_linear", "launch_glu", "choose_tile")}
ROWS = (1, 4)
LAUNCHES = 48
stopped = []
# K, rows of the weights, after, norm, silu, residual, glu
PRODUCTS = {
    "qkvg": (2048, (2048,) * 4, (None, None, "silu", "logsigmoid"), True, None, False, False),
    "o": (2048, (2048,), (None,), True, "silu", True, False),
    "glu": (2048, (5120, 5120), (), True, None, False, True),
    "down": (5120, (2048,), (None,), False, None, True, False),
}
# BN, BK, AHEAD, AFAR, KEEP, warps, programs; 99 programs a multiprocessor are one a block.
WIDE = {
    1: [(4, 1024, 2, far, True, 4, p) for p, far in ((2, 0), (2, 1), (2, 2), (2, 4), (2, 8), (3, 0), (3, 2), (4, 0), (1, 4))]
    + [(4, 1024, 1, far, True, 4, p) for p, far in ((2, 0), (2, 2), (3, 0), (3, 2), (4, 2), (6, 0), (99, 0))]
    + [(2, 1024, 2, far, True, 4, p) for p, far in ((2, 0), (2, 4), (3, 0), (3, 2), (3, 4), (3, 8), (4, 0), (4, 4))]
    + [(2, 1024, 3, far, True, 4, p) for p, far in ((2, 0), (2, 4), (3, 2))]
    + [(1, 1024, 4, far, True, 4, p) for p, far in ((3, 0), (3, 8))]
    + [(4, 2048, 2, far, True, 8, p) for p, far in ((1, 0), (1, 4), (2, 0), (2, 2))]
    + [(8, 2048, 1, far, True, 8, p) for p, far in ((1, 0), (1, 2), (2, 0))],
    4: [(2, 1024, 2, far, True, 4, p) for p, far in ((1, 4), (2, 0), (2, 2), (2, 4), (3, 0), (3, 2))]
    + [(2, 1024, 1, far, True, 4, p) for p, far in ((3, 0), (3, 2), (99, 0))]
    + [(1, 1024, 2, 4, True, 4, 3), (2, 1024, 2, 4, False, 4, 2)]
    + [(4, 2048, 1, far, True, 8, p) for p, far in ((1, 0), (1, 4), (2, 0), (2, 2))]
    + [(2, 2048, 2, far, True, 8, p) for p, far in ((1, 4), (2, 0), (2, 2), (2, 4))],
}
DOWN = {
    1: [(1, 1024, 2, far, True, 4, p) for p, far in ((2, 0), (2, 2), (2, 4), (3, 0), (3, 2), (4, 0), (4, 2), (1, 6))]
    + [(1, 1024, 3, far, True, 4, p) for p, far in ((1, 4), (2, 0), (2, 2), (2, 4))]
    + [(1, 1024, 1, far, True, 4, p) for p, far in ((3, 3), (4, 2), (99, 0))]
    + [(2, 1024, 1, far, True, 4, p) for p, far in ((2, 0), (2, 2), (3, 2), (99, 0))]
    + [(2, 1024, 2, far, True, 4, p) for p, far in ((1, 2), (2, 0), (2, 2))]
    + [(2, 1024, 2, far, True, 8, p) for p, far in ((1, 0), (1, 4), (2, 0), (2, 2))]
    + [(2, 1024, 1, 2, True, 8, 2), (4, 1024, 1, 2, True, 8, 1), (2, 2048, 2, 2, True, 8, 1), (2, 1024, 2, 2, False, 4, 2)],
    4: [(1, 1024, 2, far, False, 4, p) for p, far in ((2, 0), (2, 4), (3, 2))]
    + [(2, 1024, 1, far, False, 4, p) for p, far in ((2, 0), (2, 2), (3, 2), (99, 0))]
    + [(2, 1024, 2, far, False, 4, p) for p, far in ((1, 4), (2, 0), (2, 2))]
    + [(2, 1024, 1, 4, False, 8, 1), (2, 1024, 1, 2, False, 8, 2), (4, 1024, 1, 2, False, 8, 1), (4, 1024, 1, 2, False, 8, 2)]
    + [(2, 2048, 1, 4, True, 8, 1), (2, 2048, 2, 2, True, 8, 1)],
}


def said(*words):
    print(f"[{time.perf_counter() - began:5.1f} s]", *words, flush=True)


def tiles_of(product, rows):
    found = (DOWN if product == "down" else WIDE)[rows]
    if product == "glu":
        found = [(max(1, BN // 2), *rest) for BN, *rest in found]
    return [few.Tile(*numbers) for numbers in dict.fromkeys(map(tuple, found))]


def group(width, weights):
    """What `choose_tile` can tell apart."""
    return "narrow" if width > 2048 else "glu" if weights == 2 else "wide"


@contextmanager
def variant(which):
    """ "old", "new" as it stands, a tile for everything, or tiles by `group`."""
    few.launch_linear, few.launch_glu, few.choose_tile = new["launch_linear"], new["launch_glu"], new["choose_tile"]
    try:
        if which == "old":
            few.launch_linear, few.launch_glu = old.launch_linear, old.launch_glu
        elif isinstance(which, few.Tile):
            few.choose_tile = lambda *_: which
        elif isinstance(which, dict):
            few.choose_tile = lambda width, rows, weights, *rest: which[rows, group(width, weights)]
        yield
    finally:
        for name, value in new.items():
            setattr(few, name, value)


def inputs(product, rows, copies, device="cuda"):
    K, sizes, after, norm, silu, residual, _ = PRODUCTS[product]
    randn = lambda *shape: torch.randn(*shape, device=device, dtype=torch.bfloat16)  # noqa: E731
    weights = [[randn(n, K) / K**0.5 for n in sizes] for _ in range(copies)]
    return randn(rows, 1, K), weights, randn(K), randn(rows, 1, sizes[0]) if residual else None


def call(product, x, weights, scale, residual):
    _, _, after, norm, silu, _, is_glu = PRODUCTS[product]
    given = {"norm": (scale, 1e-6)} if norm else {}
    if is_glu:
        return [glu(x, *weights, **given)]
    return linear(x, weights, before=silu, after=after, divisor=16.0, residual=residual, **given)


def wanted(product, x, weights, scale, residual):
    _, _, after, norm, silu, _, is_glu = PRODUCTS[product]
    x, scale = x.double(), scale.double()
    x = F.silu(x) if silu else x
    x = F.rms_norm(x, x.shape[-1:], scale, 1e-6) if norm else x
    ys = [x @ w.double().T for w in weights]
    if is_glu:
        return [F.silu(ys[0]) * ys[1]]
    follow = {None: lambda y: y, "silu": F.silu, "logsigmoid": lambda y: F.logsigmoid(y) / 16}
    return [follow[name](y) + (0 if residual is None else residual.double()) for name, y in zip(after, ys, strict=True)]


def step_of(name, layers, batch, length):
    from nha_eval.bench.families import presets
    from nha_eval.bench.model_work import decode
    from nha_eval.bench.setting import Draw

    device = torch.device("cuda")
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = presets.build(name, "1.3b", layers).eval()
        finally:
            torch.set_default_dtype(torch.float32)
    draw = Draw(0, device, torch.bfloat16)
    return model, [(b, lambda b=b: decode(model, presets, b, length, draw)) for b in batch]


def job(given):
    """In a process of its own: compiled, with and without PDL, into Triton's cache on disk."""
    kind, *rest, which = given
    try:
        with torch.no_grad(), variant(which):
            if kind == "product":
                product, rows = rest
                x, (weights,), scale, residual = inputs(product, rows, 1)
                call(product, x, weights, scale, residual)
            else:
                name, batch = rest
                _, works = step_of(name, 1, (batch,), options.length)
                with works[0][1]() as work:
                    work.call()
            torch.cuda.synchronize()
        return given, None
    except Exception as error:
        return given, f"{type(error).__name__}: {error}"[:300]


def compiled(pool, jobs, seconds):
    """Those that are compiled in time."""
    done, failed, results, until = set(), [], pool.imap_unordered(job, jobs), time.perf_counter() + seconds
    try:
        for _ in jobs:
            given, error = results.next(timeout=max(0.1, until - time.perf_counter()))
            failed += [(given, error)] if error else []
            done |= set() if error else {repr(given)}
    except multiprocessing.TimeoutError:
        # Nothing may go on compiling while something is timed.
        pool.terminate()
        stopped.append(True)
    for given, error in failed[:8]:
        said("FAILED", given, error)
    missing = [j for j in jobs if repr(j) not in done]
    said(f"compiled {len(done)} of {len(jobs)} ({len(failed)} failed)", [j for j in missing][:4])
    return done


def captured(function):
    from nha_eval.bench.timing import captured

    return captured(function)


def graphed(function):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = function()
    return graph, kept


def timed(replay, least_s=0.02):
    started, ended = ([torch.cuda.Event(enable_timing=True) for _ in range(60)] for _ in range(2))
    replay()
    torch.cuda.synchronize()
    until, found = time.perf_counter() + least_s, 0
    while found < 60 and (found < 8 or time.perf_counter() < until):
        started[found].record()
        replay()
        ended[found].record()
        ended[found].synchronize()
        found += 1
    return statistics.median(a.elapsed_time(b) for a, b in zip(started[:found], ended[:found], strict=True))


def measured(product, rows, which, given, reference):
    """A row of the table."""
    x, weights, scale, residual = given
    launch._compiled.clear()
    with torch.no_grad(), variant(which):
        eager = [call(product, x, w, scale, residual) for w in weights[:2]]
        torch.cuda.synchronize()
        at = itertools.cycle(weights)
        graph, outs = graphed(lambda: [call(product, x, next(at), scale, residual) for _ in range(LAUNCHES)])
        us = 1000 * timed(graph.replay) / LAUNCHES
    error = max(float((y.double() - w).norm() / w.norm()) for y, w in zip(eager[0], reference, strict=True))
    same = all(torch.equal(a, b) for e, o in zip(eager, outs, strict=False) for a, b in zip(e, o, strict=True))
    # Copies come round again: the last launches must give what the first did.
    count = len(weights)
    same &= all(torch.equal(a, b) for i in range(count, LAUNCHES) for a, b in zip(outs[i], outs[i % count], strict=True))
    kernels_ = [k for k, _ in launch._compiled.values()]
    nbytes = sum(w.nbytes for w in weights[0])
    return {
        "product": product, "rows": rows, "tile": which if isinstance(which, str) else
        f"BN{which.BN} BK{which.BK} AHEAD{which.AHEAD} AFAR{which.AFAR} {'keep' if which.KEEP else 'read'} W{which.warps} P{which.programs}",
        "us": round(us, 3), "share": round(nbytes / gbps / 1e3 / us, 4), "regs": max(k.n_regs for k in kernels_),
        "spills": max(k.n_spills for k in kernels_), "error": f"{error:.2e}", "pdl_same": same,
        "wrong": "" if error < 1e-2 and same else "WRONG",
    }  # fmt: skip


def write(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def left():
    return options.seconds - (time.perf_counter() - began)


if __name__ == "__main__":
    said(kernels.__file__, torch.__version__, "CPUs", os.cpu_count())
    # Before CUDA is begun here: processes of their own may then begin it.
    pool = multiprocessing.get_context("fork").Pool(max(1, min(15, (os.cpu_count() or 2) - 1)))
    every = [(p, r, t) for r in ROWS for p in PRODUCTS for t in ["old", "new", *tiles_of(p, r)]]
    steps = [("step", n, b, w) for n in ("nha", "swa", "gsa") for b in ROWS for w in ("old", "new")]
    first = [("product", p, r, t) for p, r, t in every if isinstance(t, str)]
    rest = [("product", p, r, t) for p, r, t in every if not isinstance(t, str)]
    # In turns, so that time that runs out leaves each product some.
    order = sorted(rest, key=lambda j: tiles_of(j[1], j[2]).index(j[3]))
    ready = compiled(pool, [*first, *steps, *order], options.compile_seconds)
    said(torch.cuda.get_device_name(), "begins early:", launch.begins_early(0))
    from nha_eval.bench.ceilings import _copy
    from nha_eval.bench.setting import Draw
    from nha_eval.bench.timing import Budget, quartiles

    times, moved = _copy(Draw(0, torch.device("cuda"), torch.bfloat16), Budget())
    gbps = moved / quartiles(times)[1] / 1e6
    said(f"copy {gbps:.0f} GB/s")
    table = []
    for p, r in itertools.product(PRODUCTS, ROWS):
        torch.manual_seed(0)
        K, sizes, *_ = PRODUCTS[p]
        # Five times an L2 of 60 MB between two reads of a weight.
        x, weights, scale, residual = inputs(p, r, max(6, -(-300_000_000 // (2 * K * sum(sizes)))))
        reference = wanted(p, x, weights[0], scale, residual)
        mine = []
        for t in [t for q, s, t in every if (q, s) == (p, r)]:
            if repr(("product", p, r, t)) not in ready or left() < 30:
                said("skipped", p, r, t)
                continue
            try:
                mine.append(measured(p, r, t, (x, weights, scale, residual), reference) | {"Tile": t})
            except Exception as error:
                said("FAILED", p, r, t, f"{type(error).__name__}: {error}"[:300])
                if "CUDA error" in str(error):
                    raise
        table += mine
        if table:
            write(OUT / "products.csv", [{k: v for k, v in row.items() if k != "Tile"} for row in table])
        mine.sort(key=lambda row: row["us"])
        said(
            f"{p} R={r}: weights {2 * K * sum(sizes) / 1e6:.1f} MB, at the copy ceiling {2 * K * sum(sizes) / gbps / 1e3:.2f} us"
        )
        for row in [*mine[:5], *[m for m in mine[5:] if isinstance(m["Tile"], str) or m["wrong"]]]:
            print(
                f"    {row['us']:7.2f} us {100 * row['share']:5.1f}%  regs {row['regs']:3d} spills {row['spills']}  {row['tile']}"
                f"  error {row['error']}  same with PDL {row['pdl_same']} {row['wrong']}"
            )
        spilling = [row["tile"] for row in mine if row["spills"]]
        if spilling:
            print("    spill:", *spilling, sep="\n        ")
        del x, weights, reference
    # The fastest sum over the products that share a tile.
    best = {}
    for r, g in itertools.product(ROWS, ("wide", "glu", "narrow")):
        own = [p for p in PRODUCTS if group(PRODUCTS[p][0], 2 if p == "glu" else 1) == g]
        total = {}
        for row in table:
            if row["product"] in own and row["rows"] == r and isinstance(row["Tile"], few.Tile) and not row["wrong"]:
                if not row["spills"]:
                    total.setdefault(row["Tile"], []).append(row["us"])
        whole = {tile: sum(us) for tile, us in total.items() if len(us) == len(own)}
        default = few.choose_tile(5120 if g == "narrow" else 2048, r, 1 + (g == "glu"), 2, True)
        best[r, g] = min(whole, key=whole.get, default=default)
        said("best", r, g, best[r, g], f"{whole.get(best[r, g], float('nan')):.2f} us", "for", own)
    if not stopped and left() > 20:
        compiled(pool, [("step", n, b, best) for n in ("nha", "swa", "gsa") for b in ROWS], 12)
    pool.terminate()
    found = []
    for name in ("nha", "swa", "gsa"):
        if left() < 6:
            said("no time for", name)
            continue
        model, works = step_of(name, options.layers, ROWS, options.length)
        embedding = model.model.embed_tokens.weight
        tied = model.lm_head.weight is embedding
        nbytes = sum(p.nbytes for p in model.parameters()) - (0 if tied else embedding.nbytes)
        for batch, make in works:
            with make() as work, torch.no_grad():
                graphs = {}
                for label, which in (("old", "old"), ("default", "new"), ("best", best)):
                    with variant(which):
                        graphs[label] = captured(work.call)
                times = {label: [] for label in graphs}
                # In turns, so that a clock that drifts favours none.
                for label in [*graphs, *reversed(graphs)]:
                    times[label].append(timed(graphs[label], 0.05))
                ms = {label: statistics.mean(each) for label, each in times.items()}
            found.append(
                {
                    "model": name,
                    "batch": batch,
                    "floor_ms": round(nbytes / gbps / 1e6, 4),
                    **{k: round(v, 4) for k, v in ms.items()},
                }
            )
            write(OUT / "steps.csv", found)
            said(
                f"{name} batch {batch}: floor {nbytes / gbps / 1e6:.4f} ms,",
                *(f"{label} {each:.4f} ms ({each / nbytes * gbps * 1e6:.3f} x)" for label, each in ms.items()),
            )
            del graphs, work
        del model, works
        torch.cuda.empty_cache()
    said("done")
