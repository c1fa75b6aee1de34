"""`bench model`: the command on a CPU, how it goes on, its table and its pictures."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from bench_models import (
    ROOT,
)
from transformers import LlamaConfig, LlamaForCausalLM

from models import convert_pretrained
from models.cache import CACHE_NAME
from nha_eval import cli
from nha_eval.bench import families, machine, model, model_table
from nha_eval.bench.crossover import Crossover, crossover
from nha_eval.bench.rows import MODEL, read

pytestmark = pytest.mark.usefixtures("one_thread", "little_garbage", "steady_bench_model")


# ---- the command


def bench(tmp_path, *arguments):
    given = ["bench", "model", "--device", "cpu", "--seconds", "0.01", "--repeats", "3", "--out", str(tmp_path / "run")]
    return cli.run([*given, *arguments])


NARROW = ("--model", "transformer++,nha,fla-gla", "--length", "32,80,longest", "--window", "16")


def test_what_was_not_to_be_had_is_tried_again_once_its_package_has_come(tmp_path, capsys, monkeypatch):
    there = {"flash-linear-attention": None, "torch": "2.0"}
    monkeypatch.setattr(machine, "_version", lambda name: there.get(name, "1.0"))
    narrow = ("--model", "transformer++,fla-gla", "--length", "32", "--phase", "prefill")
    assert bench(tmp_path, *narrow) == 0
    before = {row["model"]: row for row in read(tmp_path / "run", MODEL)}
    assert before["fla-gla"]["status"] == "unavailable"
    # Nothing has come: it is not asked for again.
    capsys.readouterr()
    assert bench(tmp_path, *narrow) == 0
    assert "every row is there already" in capsys.readouterr().err
    there["flash-linear-attention"] = "0.6.0"
    assert bench(tmp_path, *narrow) == 0
    err = capsys.readouterr().err
    assert "[1/1] tiny prefill 32 x 1: fla-gla" in err
    after = read(tmp_path / "run", MODEL)
    assert {row["model"]: row for row in after} == before and len(after) == len(before)
    assert json.loads((tmp_path / "run/environment.json").read_text())["identity"]["flash-linear-attention"] == "0.6.0"
    # Another version of it, and a package that decides the other figures, are another matter.
    for name, version in (("flash-linear-attention", "0.7.0"), ("torch", "3.0")):
        kept = there[name]
        there[name] = version
        assert bench(tmp_path, *narrow) == 2
        assert f"holds figures of {name}" in capsys.readouterr().err
        there[name] = kept


def test_a_run_on_a_cpu(tmp_path, capsys):
    assert bench(tmp_path, *NARROW) == 0
    out, err = capsys.readouterr()
    rows = read(tmp_path / "run", MODEL)
    done = [row for row in rows if row["status"] == "ok" and row["phase"] != "ceiling"]
    assert {row["status"] for row in rows} == {"ok", "unavailable"}
    asked = {(row["phase"], row["length_asked"], row["batch_asked"]) for row in done}
    assert asked == {
        *((phase, length, "1") for phase in ("prefill", "decode", "train") for length in ("32", "80")),
        *(("decode", length, "largest") for length in ("32", "80")),
        ("decode", "longest", "1"),
    }
    assert len(done) == 2 * len(asked)
    for row in done:
        assert row["state_bytes"] == row["state_bytes_held"] and int(row["parameters"]) > 1e5
    backends = {row["model"]: row["backend"] for row in done}
    assert backends == {"transformer++": "sdpa", "nha": "chunked"}
    assert all(row["reason"] for row in rows if row["status"] != "ok")
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert environment["seed"] == 0 and environment["row_repeats"] == 3 and environment["dtype"] == "float32"
    for name in ("bench-model.csv", "bench-model-tiny-float32.svg", "bench-model-tiny-float32.png"):
        assert (tmp_path / "run" / name).stat().st_size > 1000 and name in out
    for text in (
        "tiny, float32, prefill, batch 1: median ms",
        "decoding a token, batch largest: tokens/s",
        "weights' share",
        "state in MiB",
        "ceiling: copy",
        "flash-linear-attention's models want a CUDA device",
    ):
        assert text in out
    assert "nha, window 16" in err and "Traceback" not in err

    before = (tmp_path / "run/bench-model.csv").read_bytes()
    assert bench(tmp_path, *NARROW) == 0
    assert "every row is there already" in capsys.readouterr().err
    assert (tmp_path / "run/bench-model.csv").read_bytes() == before
    assert cli.run(["bench", "show", str(tmp_path / "run")]) == 0
    assert "median ms" in capsys.readouterr().out


def test_a_setting_by_name_and_what_is_refused_of_it(tmp_path, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text("searched: [3, full]\nthree: [1, 1, 1]\n")
    given = ("--model", "nha", "--length", "32", "--phase", "decode", "--batch", "1", "--settings", str(path))
    assert bench(tmp_path, *given, "--window", "16,searched") == 0
    rows = [row for row in read(tmp_path / "run", MODEL) if row["phase"] == "decode"]
    assert [(row["window"], row["status"]) for row in rows] == [("16", "ok"), ("searched", "ok")]
    assert json.loads((tmp_path / "run/environment.json").read_text())["settings"] == {"searched": [3, "full"]}
    capsys.readouterr()
    for windows, told in (
        ("three", "setting 'three' has 3 windows, and nha-tiny has 2 layers"),
        ("serched", "--window 'serched': no setting is called that; did you mean 'searched'?"),
        ("16", "--settings: no window names one of its settings"),
    ):
        assert bench(tmp_path, *given, "--window", windows) == 2
        assert told in capsys.readouterr().err
    path.write_text("searched: [4, full]\n")
    assert bench(tmp_path, *given, "--window", "searched") == 2
    assert "holds figures of the setting 'searched' as [3, 'full'], here it is [4, 'full']" in capsys.readouterr().err
    assert bench(tmp_path, *given, "--window", "searched", "--fresh") == 0


def test_models_of_several_commands_fill_one_folder(tmp_path, capsys, monkeypatch):
    given = ("--length", "32", "--phase", "decode", "--batch", "1")
    assert bench(tmp_path, "--model", "transformer++", *given) == 0
    path = tmp_path / "run/bench-model.csv"
    first = path.read_text()
    # Cut off while its last row was written.
    path.write_text(first[:-20])
    assert bench(tmp_path, "--model", "transformer++,gla", *given) == 0
    rows = read(tmp_path / "run", MODEL)
    assert [row["model"] for row in rows] == ["copy", "matmul", "transformer++", "gla"]
    assert path.read_text().splitlines()[:3] == first.splitlines()[:3]
    keys = [MODEL.key_of(row) for row in rows]
    assert len(set(keys)) == len(keys)

    monkeypatch.setattr(model, "source_digest", lambda: "changed")
    capsys.readouterr()
    assert bench(tmp_path, "--model", "gla", *given) == 2
    err = capsys.readouterr().err
    assert "holds figures of sources" in err and len(err.splitlines()) == 1
    assert bench(tmp_path, "--model", "gla", *given, "--fresh") == 0
    assert [row["model"] for row in read(tmp_path / "run", MODEL)] == ["copy", "matmul", "gla"]


def test_a_checkpoint_by_its_own_layers_and_sizes(tmp_path, capsys):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 259}
    base = LlamaForCausalLM(LlamaConfig(**shape))
    folder = tmp_path / "llama"
    base.save_pretrained(folder)
    hybrid = convert_pretrained(folder, windows=[16, None, 16])
    hybrid.save_pretrained(tmp_path / "hybrid")
    named = f"{folder},{tmp_path / 'hybrid'},nha:{folder}"
    given = ("--model", named, "--length", "40,80", "--batch", "1", "--window", "8", "--phase", "prefill,decode")
    assert bench(tmp_path, *given) == 0
    out = capsys.readouterr().out
    rows = {(r["model"], r["phase"], r["length"]): r for r in read(tmp_path / "run", MODEL) if r["phase"] != "ceiling"}
    assert {(r["status"], r["size"]) for r in rows.values()} == {("ok", "checkpoint")} and len(rows) == 12
    models_of = {str(folder): base, str(tmp_path / "hybrid"): hybrid}
    windows = {str(folder): "full", str(tmp_path / "hybrid"): "8", f"nha:{folder}": "8"}
    for (name, *_), row in rows.items():
        assert row["window"] == windows[name] and row["state_bytes"] == row["state_bytes_held"]
        if name in models_of:
            assert int(row["parameters"]) == sum(p.numel() for p in models_of[name].parameters())
    # Layers that came with full attention keep it, and others have the window given.
    hybrid.set_window(8, [0, 2])
    assert int(rows[str(tmp_path / "hybrid"), "decode", "80"]["state_bytes"]) == hybrid.state_bytes(1, 80)
    # Without transformer++ all are compared with the first that has full windows.
    assert f"times faster than ...{str(folder)[-45:]}" in out
    settings = tmp_path / "settings.yaml"
    settings.write_text("odd: [4, full, 4]\n")
    given = ("--model", named, "--length", "40", "--settings", str(settings), "--window", "odd", "--phase", "prefill")
    assert bench(tmp_path, *given) == 0
    assert [r["window"] for r in read(tmp_path / "run", MODEL)][-2:] == ["odd", "odd"]
    # Unless told otherwise its windows are its own.
    hybrid.set_window(8, [0])
    hybrid.set_window(12, [2])
    hybrid.save_pretrained(tmp_path / "unlike")
    given = ("--length", "40", "--phase", "decode", "--batch", "1", "--model")
    assert bench(tmp_path, *given, f"{tmp_path / 'unlike'}/,nha:{folder}") == 0
    unlike, alike = read(tmp_path / "run", MODEL)[-2:]
    assert (unlike["model"], unlike["window"], alike["window"]) == (str(tmp_path / "unlike"), "own", "64")
    assert int(unlike["state_bytes"]) == hybrid.state_bytes(1, 40) == int(unlike["state_bytes_held"])
    # Another model under the same name is not taken for it.
    hybrid.set_window(9, [0])
    hybrid.save_pretrained(tmp_path / "unlike")
    families.find("unlike")._config.cache_clear()
    capsys.readouterr()
    assert bench(tmp_path, *given, str(tmp_path / "unlike")) == 2
    assert "whose configuration was another" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_measured_is_one_line(tmp_path, capsys, monkeypatch):
    """What a look at its files lets pass, and its configuration does not."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 259}
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(tmp_path / "llama")
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ("--length", "32", "--phase", "prefill", "--model")
    assert bench(tmp_path, *given, "~/llama,nha:~/llama") == 0
    convert_pretrained(tmp_path / "llama").save_pretrained(tmp_path / "hybrid")
    config = json.loads((tmp_path / "llama/config.json").read_text())
    for name, change in (
        ("other", {"model_type": "gpt2"}),
        ("heads", {"num_key_value_heads": 3}),
        ("eps", {"rms_norm_eps": "abc"}),
    ):
        LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps(config | change))
    capsys.readouterr()
    for name in ("other", "heads", "eps", "nha:hybrid", "nha:nha:llama", "gone", "~nobody-of-that-name/x"):
        form, _, last = name.rpartition(":")
        path = name if name.startswith("~") else f"{form}:{tmp_path / last}" if form else str(tmp_path / last)
        assert bench(tmp_path, *given, path) == 2, name
        err = capsys.readouterr().err
        assert err.startswith("error: ") and len(err.strip().splitlines()) == 1, err
    assert bench(tmp_path, *given, str(tmp_path / "llama"), "--size", "tiny") == 2
    assert "a checkpoint has a size of its own" in capsys.readouterr().err


def test_models_without_a_colour_of_their_own_look_unlike():
    from nha_eval.plots._bench_lines import looks_of
    from nha_eval.plots._style import PALETTE

    known = {"nha": (PALETTE[0], "-"), "swa": (PALETTE[1], "-")}
    others = [f"checkpoint {i}" for i in range(14)]
    looks = looks_of(["nha", *others], known)
    assert len({looks[name] for name in ["nha", *others]}) == 15
    # Of a model that is not drawn the colour may be had.
    assert PALETTE[0] not in {looks[name][0] for name in others} and PALETTE[1] in {looks[name][0] for name in others}


def test_a_path_is_shown_as_it_is_written(capsys):
    rows = invented()
    for row in rows:
        row["model"] = {"nha": "runs/[v2]/x[/b]", "transformer++": "a/" * 40 + "base"}.get(row["model"], row["model"])
    model_table.show(rows)
    out = capsys.readouterr().out
    assert "runs/[v2]/x[/b]" in out and "..." + ("a/" * 40 + "base")[-45:] in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nah"], "did you mean 'nha'"),
        (["--model", "nha-340m"], "pattern and size are given apart: --model nha --size 340m"),
        (["--model", "no/such/folder"], "no such checkpoint folder: 'no/such/folder'"),
        (["--model", "nah:smollm2-135m"], "no such form: 'nah'"),
        (["--size", "7b"], "no such size: '7b'"),
        (["--length", "long"], "integers from 16 or longest"),
        (["--length", "largest"], "--length 'largest'"),
        (["--batch", "0"], "integers from 1 or largest"),
        (["--window", "T/0"], "--window 'T/0'"),
        (["--window", "half"], "shares of the length such as T/8"),
        (["--phase", "forward"], "no such phase: 'forward'"),
        (["--checkpointing", "yes"], "wanted is on, off"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--device", "cuda:99"], "GPUs that torch can use here"),
        (["--dtype", "int4"], "dtype 'int4'"),
        (["--repeats", "0"], "at least 1 repeat"),
        (["--seconds", "nan"], "--seconds nan"),
        (["--seed", "-1"], "--seed -1: wanted is an integer from 0"),
        (["--model", ","], "--model ',': it names nothing"),
        (["--length", ""], "--length '': it names nothing"),
        (["--phase", "train", "--batch", "largest"], "nothing to measure"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["bench", "model", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_needs_only_what_a_bare_gpu_machine_has(tmp_path):
    given = ["--model", "nha,hf-llama", "--length", "32", "--window", "16", "--seconds", "0.01", "--device", "cpu"]
    code = (
        # A module that is None there cannot be imported.
        "import sys; sys.modules |= dict.fromkeys(['lm_eval', 'datasets', 'requests', 'gguf', 'pooch', 'fla']); "
        "import nha_eval.bench.ceilings as c; c.COPY_BYTES = {'cpu': 2**20}; c.MATMUL_SIZE = {'cpu': 64}; "
        "import nha_eval.bench.model_measure as m; m.MOST_SEQUENCES = {'cpu': 2}; "
        "from nha_eval import cli; "
        f"sys.exit(cli.run(['bench', 'model', *{given!r}, '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert {row["status"] for row in read(tmp_path, MODEL)} == {"ok"}


@pytest.mark.gpu
def test_a_run_on_a_gpu(tmp_path):
    given = ["--model", "transformer++,nha,hf-llama", "--size", "tiny", "--length", "256,1024", "--window", "64"]
    assert cli.run(["bench", "model", "--device", "cuda", *given, "--batch", "1", "--out", str(tmp_path)]) == 0
    rows = [row for row in read(tmp_path, MODEL) if row["phase"] != "ceiling"]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["graph"] for row in rows if row["phase"] == "decode"} == {"True"}
    captured = ["--phase", "prefill-graph,train-graph", "--batch", "1", "--out", str(tmp_path / "captured")]
    assert cli.run(["bench", "model", "--device", "cuda", *given, *captured]) == 0
    rows = [row for row in read(tmp_path / "captured", MODEL) if row["phase"] != "ceiling"]
    assert len(rows) == 12 and {(row["status"], row["graph"]) for row in rows} == {("ok", "True")}


# ---- crossovers, table and picture


def test_where_lines_cross():
    base = {512: 1.0, 2048: 4.0, 8192: 16.0}
    # Halfway on both logarithmic scales: as much slower before as faster after.
    assert crossover({512: 1.0, 2048: 8.0, 8192: 8.0}, base).length == pytest.approx(4096)
    found = crossover({512: 2.0, 2048: 2.0, 8192: 2.0}, base)
    assert found == Crossover(pytest.approx(1024), False) and str(found) == "~1,024"
    assert str(crossover({512: 0.5, 2048: 2.0, 8192: 2.0}, base)) == "<= 512"
    # From where it stays faster: not the first crossing.
    assert crossover({512: 0.5, 2048: 8.0, 8192: 8.0}, base).length == pytest.approx(4096)
    assert crossover({512: 0.5, 8192: 17.0}, base) is None and crossover({}, base) is None
    assert crossover({2048: 1.0, 8192: 1.0, 131072: 1.0}, base) == Crossover(2048, True)


def invented(**changes):
    rows = []
    for name, window, slope in (
        ("transformer++", "full", 2.0),
        ("nha", "64", 1.0),
        ("nha", "T/8", 1.5),
        ("newcomer", "none", 0.0),
    ):
        for phase in ("prefill", "decode", "train"):
            for length in (2048, 8192, 32768, 131072):
                for batch in ("1", "largest")[: 2 if phase == "decode" else 1]:
                    ms = (4.0 if slope == 2.0 else 8.0) * (length / 2048) ** slope
                    about = {
                        "model": name,
                        "size": "1.3b",
                        "phase": phase,
                        "window": window,
                        "dtype": "bfloat16",
                        "device": "a GPU",
                    }
                    about |= {
                        "length_asked": length,
                        "length": length,
                        "batch_asked": batch,
                        "batch": 1 if batch == "1" else 40,
                    }
                    timed = {
                        "latency_ms": ms,
                        "latency_ms_p25": ms,
                        "latency_ms_p75": ms,
                        "cold_start_ms": 99,
                        "peak_memory_mb": 5 * ms,
                    }
                    timed |= {
                        "tokens_per_s": 1e6 / ms,
                        "state_bytes_held": int(2**20 * ms),
                        "floor_share": 0.5 if phase == "decode" else "",
                    }
                    again = str(length > 8192) if phase == "train" else ""
                    row = {
                        **dict.fromkeys(MODEL.columns, ""),
                        **about,
                        **timed,
                        "checkpointing": again,
                        "status": "ok",
                        **changes,
                    }
                    rows.append({column: str(value) for column, value in row.items()})
    return rows


def test_the_table_says_how_many_times_faster(capsys):
    rows = invented()
    rows[3] |= {"status": "oom", "reason": "out of memory"}
    longest = next(row for row in rows if row["phase"] == "decode" and row["model"] == "nha")
    rows.append({**longest, "length_asked": "longest", "length": "1048576", "note": "no longer one is tried"})
    for row in rows:
        row["tflops"] = "200.0" if row["phase"] == "train" and row["model"] == "nha" else ""
    rows.append(
        {**dict.fromkeys(MODEL.columns, ""), "model": "matmul", "phase": "ceiling", "dtype": "bfloat16", "tflops": "800"}
    )
    model_table.show(rows)
    out = capsys.readouterr().out
    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if line.strip()]
    first = lines[: next(i for i, line in enumerate(lines) if "peak" in line[0])]
    prefill = {tuple(line[:2]): line[2:] for line in first}
    assert prefill["transformer++", "full"] == ["4.00", "64.0", "1,024", "oom", "99.0"]
    assert prefill["nha", "64"] == ["8.00 0.5x", "32.0 2.00x", "128 8.00x", "512", "~4,096", "99.0"]
    assert ["nha", "64", "8.00 0.5x", "32.0 2.00x", "128 8.00x", "512 32.0x", ">= 1,048,576", "~4,096", "50%", "99.0"] in lines
    assert ["nha", "64", "125,000 (40) 0.5x", "31,250 (40) 2.00x", "7,812 (40) 8.00x", "1,953 (40) 32.0x"] in lines
    assert ["nha", "64", "125,000 (25%)", "31,250 (25%)"] in lines and ["transformer++", "full", "250,000", "15,625"] in lines
    assert "transformer++, prefill: oom: out of memory" in out


def test_the_picture_draws_what_the_table_says(tmp_path):
    from nha_eval.plots import _bench_model
    from nha_eval.plots._style import THEMED, NothingToDraw, style

    with style():
        ((key, figure),) = _bench_model.draw(pd.DataFrame(invented())).items()
    assert key == ("1.3b", "bfloat16")
    titles = [axes.get_title(loc="left").splitlines() for axes in figure.axes]
    assert [title[0] for title in titles] == [panel.title for panel in _bench_model.PANELS]
    assert titles[2][1] == "batch 1, checkpointing from 32,768"
    drawn = {bars.get_label(): bars[0].get_data() for bars in figure.axes[0].containers}
    assert drawn["transformer++|full"][1].tolist() == pytest.approx([4 / 2.048, 64 / 8.192, 1024 / 32.768, 16384 / 131.072])
    # Seconds, as most are long.
    decoded = {bars.get_label(): bars[0].get_data() for bars in figure.axes[1].containers}
    assert decoded["nha|64"][1].tolist() == pytest.approx([0.008, 0.032, 0.128, 0.512])
    rings = {line.get_label(): line.get_data() for line in figure.axes[1].lines if line.get_label().startswith("_crossover")}
    assert set(rings) == {"_crossover nha", "_crossover newcomer"}
    assert rings["_crossover newcomer"][0][0] == pytest.approx(2048 * 2**0.5)
    assert rings["_crossover newcomer"][1][0] == pytest.approx(0.008)
    across = next(line for line in figure.axes[0].lines if line.get_label() == "_crossover newcomer").get_data()
    assert (across[0][0], across[1][0]) == pytest.approx((2048 * 2**0.5, 8 / (2.048 * 2**0.5)))
    # Steps made in two ways are two lines.
    train = [bars[0].get_data()[0].tolist() for bars in figure.axes[2].containers if bars.get_label() == "nha|64"]
    assert train == [[2048, 8192], [32768, 131072]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"nha", "transformer++", "newcomer", "window 64", "window T/8", "full attention", "no window"} <= set(legend)

    pd.DataFrame(invented()).to_csv(tmp_path / "bench-model.csv", index=False)
    first = [path.read_bytes() for path in _bench_model.write(tmp_path)]
    assert first == [path.read_bytes() for path in _bench_model.write(tmp_path)]
    assert set(re.findall(r"#[0-9a-f]{6}\b", first[0].decode())) <= set(THEMED)
    with pytest.raises(NothingToDraw):
        _bench_model.draw(pd.DataFrame(invented(status="oom")))
    with pytest.raises(NothingToDraw):
        _bench_model.draw(pd.DataFrame(invented(phase="another")))


def test_bars_are_seen_whole():
    from nha_eval.plots import _bench_model
    from nha_eval.plots._style import style

    rows = [{**row, "latency_ms_p75": str(3 * float(row["latency_ms"]))} for row in invented() if row["length"] == "2048"]
    with style():
        (figure,) = _bench_model.draw(pd.DataFrame(rows)).values()
    for axes in figure.axes[:3]:
        ends = [y for bars in axes.containers for line in bars[2] for path in line.get_segments() for _, y in path]
        low, high = axes.get_ylim()
        assert ends and low <= min(ends) and max(ends) < high


@pytest.mark.parametrize(
    ("column", "text", "why"),
    [
        ("length_asked", "abc", "row 1: length_asked is 'abc', wanted an integer"),
        ("latency_ms", "fast", "row 1: latency_ms is 'fast', wanted a number"),
        ("batch", "", "row 1: batch is '', wanted an integer"),
    ],
)
def test_a_table_that_was_changed_is_a_mistake(column, text, why, tmp_path, capsys):
    first, *others = invented()
    pd.DataFrame([first | {column: text}, *others]).to_csv(tmp_path / "bench-model.csv", index=False)
    assert cli.run(["bench", "show", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert why in err and len(err.strip().splitlines()) == 1


def test_a_picture_stays_in_its_folder(tmp_path):
    from nha_eval.plots import _bench_model

    (tmp_path / "run").mkdir()
    pd.DataFrame(invented(size="../../x")).to_csv(tmp_path / "run" / "bench-model.csv", index=False)
    assert {path.parent for path in _bench_model.write(tmp_path / "run")} == {tmp_path / "run"}


def test_caches_go_by_the_name_that_transformers_gives_them():
    assert families.find("hf-llama").CACHE == families.find("nha").CACHE == CACHE_NAME
