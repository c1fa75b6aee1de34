"""`bench op`: what it refuses to time, how it goes on, and the command on a CPU."""

import contextlib
import json
import re
import subprocess
import sys
import types
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_cases import ODD, case, draw

from nha_eval import cli
from nha_eval.bench import ahead, counts, implementations, machine, measure, op, table
from nha_eval.bench.check import WrongResult, check, small
from nha_eval.bench.grid import PHASES, plan
from nha_eval.bench.implementations import Call
from nha_eval.bench.rows import OP, read
from nha_eval.bench.shapes import SHAPES
from nha_eval.bench.timing import Budget, quartiles, significant
from nha_eval.errors import MachineError

ROOT = Path(cli.__file__).parent.parent
CPU = torch.device("cpu")
SHORT = Budget(0.0, 0.0)

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- nothing is timed before it is right


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", ["nha", "sdpa-flash"])
def test_the_real_ones_are_right(name, phase):
    module = implementations.find(name)
    if phase in module.PHASES:
        shape = replace(SHAPES["tiny"], value_dim=16 if name == "sdpa-flash" else 24)
        check(case(name, phase, shape, window=9 if name == "nha" else None, batch=3), draw())


def test_gated_slot_attention_is_nha_without_a_window():
    """The definition that fla's kernels are held to, and the one of this project."""
    naive = pytest.importorskip("fla.ops.gsa.naive", reason="flash-linear-attention is not installed")
    from kernels import nha_attention

    made = implementations.find("fla-gsa")._inputs(ODD, 2, 17, draw())
    ours, _ = nha_attention(*(made[name] for name in "qkvg"), window=0, backend="recurrent")
    assert torch.allclose(naive.naive_recurrent_gsa(**made)[0], ours, atol=1e-5)


@pytest.mark.parametrize("name", ["fla-gsa", "fla-gla", "fla-gated-deltanet"])
def test_definitions_of_fla_take_what_the_kernels_get(name):
    """The kernels want a GPU; that shapes fit, and every input has a gradient, shows here."""
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    made = implementations.find(name).forward(case(name, window=None), draw())
    inputs = [tensor.requires_grad_() for tensor in made.inputs.values()]
    out = made.define(**made.inputs)
    assert out.shape == (2, 13, ODD.query_heads, ODD.value_dim)
    assert all(grad.abs().max() > 0 for grad in torch.autograd.grad(out.pow(2).sum(), inputs))


def test_the_check_sees_more_tokens_than_the_window():
    assert small(case(window=1024)).length == 1152 and small(case(window=None)).length == 256
    packed = small(case(phase="forward packed", window=64, batch=4))
    assert max(packed.sequences) > 64


class Fake(types.SimpleNamespace):
    """An implementation that adds q to itself, or does what the test says; `calls` counts."""

    WINDOWS, PHASES, COUNT = "full", ("forward", "forward+backward"), staticmethod(counts.softmax)

    def __init__(self, run=None, **other):
        super().__init__(calls=0, **other)
        self._run = run or (lambda q: 2 * q)

    def refusal(self, device, dtype, case):
        return None

    def forward(self, case, draw):
        def run(q):
            self.calls += 1
            return self._run(q)

        q = draw.normal(case.batch, case.length, case.shape.query_heads, case.shape.value_dim)
        return Call({"q": q}, run, lambda q: q + q, "fake", "a note", contextlib.nullcontext)


@pytest.fixture
def fake(monkeypatch):
    """Put a Fake where implementations are looked up; gives a function that measures it at a length."""

    def put(run=None, **other):
        module = Fake(run, **other)
        monkeypatch.setattr(implementations, "find", lambda name: module)
        meter = measure.Meter(CPU, torch.float32, 0, SHORT, tflops=1.0, gbps=1.0)

        def rows(length=32, phase="forward"):
            return list(meter.measure(case("fake", phase, length=length, window=None), (False,)))

        return module, rows

    return put


def test_a_right_one_is_timed(fake):
    _, rows = fake()
    for phase in Fake.PHASES:
        (row,) = rows(phase=phase)
        assert row["status"] == "ok" and row["repeats"] >= 5 and row["note"] == "a note" and row["backend"] == "fake"
        assert row["latency_ms_p25"] <= row["latency_ms"] <= row["latency_ms_p75"]
        flops = counts.softmax(case(phase=phase, length=32, window=None), 4).flops
        assert row["tflops"] == pytest.approx(flops / row["latency_ms"] / 1e9, rel=0.3, abs=1e-4)
        assert row["roofline_share"] > 0 and row["peak_memory_mb"] >= 0


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (lambda q: 2.1 * q, "the output differs from its definition"),
        (lambda q: q * torch.nan, "relative error nan"),
        (lambda q: q[:, :3], "shape [2, 3, 6, 4]"),
    ],
    ids=["wrong", "nan", "shape"],
)
def test_a_wrong_one_is_not_timed(fake, run, what):
    module, rows = fake(run)
    (row,) = rows()
    assert row["status"] == "error" and what in row["reason"] and "not timed" in row["reason"]
    assert "latency_ms" not in row and module.calls == 1
    # Looked into once: the next length has the same answer.
    assert rows(length=64)[0]["reason"] == row["reason"] and module.calls == 1


def test_a_wrong_gradient_is_not_timed(fake):
    _, rows = fake(lambda q: 2 * q + 0.1 * (q - q.detach()))
    assert rows()[0]["status"] == "ok"
    (row,) = rows(phase="forward+backward")
    assert row["status"] == "error" and "the gradient of q" in row["reason"]


@pytest.mark.parametrize(
    ("problem", "other", "status"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), {}, "oom"),
        (MemoryError(), {}, "oom"),
        (RuntimeError("No available kernel. Aborting execution."), {"UNAVAILABLE": ("No available kernel",)}, "unavailable"),
        (ImportError("no module named x"), {}, "unavailable"),
        (RuntimeError("shape '[2]'\nis invalid"), {}, "error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_it_raises_is_the_rows_status(fake, problem, other, status):
    def run(q):
        if q.shape[1] == 512:
            raise problem
        return 2 * q

    _, rows = fake(run, **other)
    (row,) = rows(length=512)
    assert row["status"] == status and "latency_ms" not in row and "\n" not in row["reason"]
    assert rows(length=32)[0]["status"] == "ok"


def test_a_row_that_cannot_be_made_is_an_error_not_a_gap(fake):
    module, rows = fake()
    module.COUNT = lambda case, itemsize: 1 / 0
    (row,) = rows()
    assert row["status"] == "error" and "ZeroDivisionError" in row["reason"]


def test_small_figures_do_not_become_0():
    assert significant(1.23456789e-7) == 1.2346e-7 and significant(123456.7) == 123460


def test_a_refusal_is_a_row(fake):
    module, rows = fake()
    module.refusal = lambda device, dtype, case: "not here"
    (row,) = rows()
    assert (row["status"], row["reason"], module.calls) == ("unavailable", "not here", 0)


def test_a_gpu_that_is_gone_ends_the_run(monkeypatch):
    def gone(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", gone)
    with pytest.raises(MachineError, match=r"illegal memory access.*the same command goes on"):
        machine.healthy(torch.device("cuda", 0))


def test_quartiles():
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


# ---- compiling ahead


def test_what_is_compiled_ahead():
    own, shared = ahead.split(plan(device_type="cuda", shapes=["A"]))
    assert {c.implementation for c in shared} == {"fla-gsa", "fla-gla", "fla-gated-deltanet"}
    assert {c.length for c in shared} == {ahead.SHARED_LENGTH}
    # Every length of flex is compiled for itself, and the one that is checked.
    assert {256, 2048, 4096, 8192, 32768, 131072} <= {c.length for c in own if c.implementation == "flex" and c.window == 64}
    assert not {c.implementation for c in own} & {"sdpa-cudnn", "sdpa-flash"}


def test_processes_share_out_the_candidates(monkeypatch):
    pytest.importorskip("triton")
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    compiled = []

    def launch(self, *args, grid, warmup, name, size=None):
        assert warmup
        compiled.append((name, size))

    def candidate(size):
        return types.SimpleNamespace(all_kwargs=lambda: {"size": size})

    for rank in range(3):
        monkeypatch.setattr(JITFunction, "run", launch)
        monkeypatch.setattr(Autotuner, "run", None)
        ahead.compile_only(rank, 3)
        for name, sizes in (("one", range(7)), ("two", range(2))):
            inner = types.SimpleNamespace(run=lambda *args, **given: JITFunction.run(None, *args, **given))
            tuned = types.SimpleNamespace(
                arg_names=[], prune_configs=lambda given, sizes=sizes: [candidate(size) for size in sizes], fn=inner
            )
            Autotuner.run(tuned, grid=(1,), warmup=False, name=name)
        JITFunction.run(None, grid=(1,), warmup=False, name="plain")
    wanted = [("one", size) for size in range(7)] + [("two", 0), ("two", 1), ("plain", None)]
    assert Counter(compiled) == Counter(wanted)


# ---- the command


def bench(tmp_path, *arguments):
    given = [
        "bench",
        "op",
        "--device",
        "cpu",
        "--shape",
        "tiny",
        "--warmup",
        "0",
        "--repeat",
        "0",
        "--out",
        str(tmp_path / "run"),
    ]
    return cli.run([*given, *arguments])


@pytest.fixture(autouse=True)
def small_and_steady(monkeypatch):
    """Small ceilings; and sources that nobody edits while a test runs."""
    monkeypatch.setattr(op, "source_digest", lambda: "these")
    monkeypatch.setattr("nha_eval.bench.ceilings.COPY_BYTES", {"cuda": 2**30, "cpu": 2**20})
    monkeypatch.setattr("nha_eval.bench.ceilings.MATMUL_SIZE", {"cuda": 8192, "cpu": 64})


NARROW = ("--length", "32,80", "--window", "16", "--only", "nha,sdpa-flash,sdpa-cudnn,fla-gsa,flash-attn")


@pytest.mark.slow
def test_a_run_on_a_cpu(tmp_path, capsys):
    assert bench(tmp_path, *NARROW) == 0
    out, err = capsys.readouterr()
    rows = read(tmp_path / "run", OP)
    assert {row["status"] for row in rows} == {"ok", "unavailable"}
    done = Counter((row["implementation"], row["phase"]) for row in rows if row["status"] == "ok")
    assert done == {
        **{(name, phase): 2 for name in ("nha", "sdpa-flash") for phase in ("forward", "forward+backward", "decode")},
        **{("nha", phase): 1 for phase in ("forward packed", "forward+backward packed")},
        **{("copy", "ceiling"): 1, ("matmul", "ceiling"): 1},
    }
    nha = next(row for row in rows if (row["implementation"], row["length"]) == ("nha", "80"))
    assert {**nha, "batch": "1", "query_heads": "4", "kv_heads": "2", "key_dim": "16", "slots": "8", "window": "16"} == nha
    assert (nha["dtype"], nha["device"], nha["backend"], nha["graph"]) == ("float32", "cpu", "chunked", "False")
    assert all(row["reason"] for row in rows if row["status"] != "ok")
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert {"torch", "triton", "fla-core"} <= set(environment["versions"]) and environment["seed"] == 0
    for name in ("bench-op.csv", "bench-op.svg", "bench-op.png"):
        assert (tmp_path / "run" / name).is_file() and name in out
    for text in (
        "Shape tiny, float32, forward: median ms by length",
        "Decode:",
        "packed/equal",
        "ceiling: copy",
        "cuDNN wants a CUDA device",
    ):
        assert text in out
    assert "nha, window 16" in err and "Traceback" not in err

    before = (tmp_path / "run/bench-op.csv").read_bytes()
    assert bench(tmp_path, *NARROW) == 0
    assert "every row is there already" in capsys.readouterr().err
    assert (tmp_path / "run/bench-op.csv").read_bytes() == before
    assert json.loads((tmp_path / "run/environment.json").read_text())["resumed"]
    assert cli.run(["bench", "show", str(tmp_path / "run")]) == 0


ONE = ("--length", "32", "--window", "8", "--only", "nha", "--phase", "forward")


def test_a_cut_off_run_goes_on(tmp_path, capsys):
    assert bench(tmp_path, *ONE) == 0
    path = tmp_path / "run/bench-op.csv"
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert len(read(tmp_path / "run", OP)) == 2
    assert bench(tmp_path, *ONE[:1], "32,48", *ONE[2:]) == 0
    rows = read(tmp_path / "run", OP)
    assert path.read_text().splitlines()[:3] == whole.splitlines()[:3]
    assert [(row["phase"], row["length"]) for row in rows] == [
        ("ceiling", ""),
        ("ceiling", ""),
        ("forward", "32"),
        ("forward", "48"),
    ]
    keys = [tuple(row[column] for column in OP.key) for row in rows]
    assert len(set(keys)) == len(keys)


def test_each_row_is_there_as_soon_as_it_is_measured(tmp_path, monkeypatch):
    seen = []

    def interrupted(device):
        seen.append(len(read(tmp_path / "run", OP)))
        if len(seen) == 2:
            raise MachineError("gone")

    monkeypatch.setattr(machine, "healthy", interrupted)
    assert bench(tmp_path, "--length", "32,48,64", *ONE[2:]) == 1
    assert seen == [3, 4]
    assert len(read(tmp_path / "run", OP)) == 4


def test_figures_of_other_sources_or_machines_are_not_mixed(tmp_path, capsys, monkeypatch):
    assert bench(tmp_path, *ONE) == 0
    monkeypatch.setattr(op, "source_digest", lambda: "changed")
    before = (tmp_path / "run/bench-op.csv").read_bytes()
    capsys.readouterr()
    assert bench(tmp_path, *ONE) == 2
    err = capsys.readouterr().err
    assert "holds figures of sources" in err and "--fresh" in err and len(err.splitlines()) == 1
    assert (tmp_path / "run/bench-op.csv").read_bytes() == before
    assert bench(tmp_path, *ONE, "--fresh") == 0
    assert len(read(tmp_path / "run", OP)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["op", "--shape", "C"], "no such shape: 'C'"),
        (["op", "--only", "nah"], "did you mean 'nha'"),
        (["op", "--length", "long"], "--length 'long'"),
        (["op", "--length", "4"], "integers from 16"),
        (["op", "--window", "-1"], "--window '-1'"),
        (["op", "--device", "tpu"], "device 'tpu'"),
        (["op", "--device", "cuda:99"], "GPUs that torch can use here"),
        (["op", "--dtype", "int4"], "dtype 'int4'"),
        (["op", "--repeat", "-1"], "wanted are milliseconds"),
        (["op", "--only", "flex", "--phase", "decode"], "flex cannot do decode"),
        (["show", "nowhere"], "no table of `bench op`, `bench model` or `bench harness` in nowhere"),
        (["oop"], "oop"),
        ([], "--help"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["op", "model", "harness", "show"])
def test_help_has_an_example_and_imports_nothing_heavy(command):
    code = (
        f"import sys; from nha_eval import cli; code = cli.run(['bench', '{command}', '--help']); "
        "heavy = {'torch', 'triton', 'transformers', 'lm_eval', 'pandas', 'matplotlib'} & set(sys.modules); "
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr.strip() == "set()"
    assert f"Example: python run_eval.py bench {command}" in " ".join(done.stdout.split())


def test_a_run_imports_only_what_a_bare_gpu_machine_has(tmp_path):
    code = (
        "import sys; from nha_eval import cli; "
        f"code = cli.run(['bench', 'op', '--shape', 'tiny', *{list(ONE)!r}, '--out', {str(tmp_path)!r}, '--device', 'cpu']); "
        "there = {'lm_eval', 'datasets', 'transformers', 'accelerate', 'triton', 'fla'} & set(sys.modules); "
        "print(there, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == "set()"


@pytest.mark.gpu
def test_a_run_on_a_gpu(tmp_path):
    given = ["--shape", "tiny", "--length", "256,512", "--only", "nha,sdpa-flash,flex", "--out", str(tmp_path)]
    assert cli.run(["bench", "op", "--device", "cuda", *given]) == 0
    rows = [row for row in read(tmp_path, OP) if row["phase"] != "ceiling"]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["graph"] for row in rows if row["phase"] == "forward"} == {"True", "False"}


# ---- table and picture


@pytest.mark.parametrize(
    ("value", "text"), [("", ""), (0.0358, "0.0358"), (0.5, "0.5"), (1.234, "1.23"), (254.4, "254"), (12345.6, "12,346")]
)
def test_figures_are_written_with_three_digits(value, text):
    assert table.figures(value) == text


def invented(**changes):
    rows = []
    for name, window, slope in (("nha", "64", 1.0), ("sdpa-cudnn", "full", 2.0), ("newcomer", "none", 1.0)):
        for phase in ("forward", "forward+backward"):
            for length in (2048, 8192, 32768, 131072):
                ms = 0.05 * (length / 2048) ** slope
                row = dict.fromkeys(OP.columns, "")
                row |= {"implementation": name, "phase": phase, "shape": "A", "batch": 1, "query_heads": 32, "kv_heads": 8}
                row |= {
                    "key_dim": 128,
                    "length": length,
                    "window": window,
                    "dtype": "bfloat16",
                    "device": "a GPU",
                    "status": "ok",
                }
                row |= {"latency_ms": ms, "latency_ms_p25": ms, "latency_ms_p75": ms, "graph": False, "tflops": 9, "gbps": 9}
                rows.append({**row, "roofline_share": 0.5, "status": "ok", **changes})
    return [{column: str(value) for column, value in row.items()} for row in rows]


def test_the_table_says_how_time_grows(capsys):
    table.show(invented())
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.split()}
    assert lines["nha"][2:7] == ["0.05", "0.2", "0.8", "3.20", "4.00"]
    assert lines["sdpa-cudnn"][6] == "16.00"


def test_the_picture_draws_what_the_table_says(tmp_path):
    import pandas as pd

    from nha_eval.plots import _bench_op
    from nha_eval.plots._style import THEMED, NothingToDraw, style

    with style():
        figure = _bench_op.draw(pd.DataFrame(invented()))
    assert [axes.get_title(loc="left").splitlines()[0] for axes in figure.axes] == [
        "Shape A, forward",
        "Shape A, forward+backward",
    ]
    drawn = {bars.get_label(): bars[0].get_data() for bars in figure.axes[0].containers}
    assert drawn["nha|64"][0].tolist() == [2048, 8192, 32768, 131072]
    assert drawn["sdpa-cudnn|full"][1].tolist() == pytest.approx([0.05, 0.8, 12.8, 204.8])
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"nha", "sdpa-cudnn", "newcomer", "window 64", "full attention", "no window"} <= set(legend)

    pd.DataFrame(invented()).to_csv(tmp_path / "bench-op.csv", index=False)
    first = [path.read_bytes() for path in _bench_op.write(tmp_path)]
    assert first == [path.read_bytes() for path in _bench_op.write(tmp_path)]
    assert set(re.findall(r"#[0-9a-f]{6}\b", first[0].decode())) <= set(THEMED)
    with pytest.raises(NothingToDraw):
        _bench_op.draw(pd.DataFrame(invented(status="oom")))


def test_wrong_result_is_no_out_of_memory():
    from nha_eval.errors import is_out_of_memory

    assert not is_out_of_memory(WrongResult("the output differs"))
