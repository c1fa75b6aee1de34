"""The command line as a user meets it: quick help, one line for a mistake, the exit codes."""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import fakes
import pytest

from models import presets
from nha_eval import cli, listing, runner
from nha_eval.plots import plot_kinds

ROOT = Path(cli.__file__).parent.parent
VERBS = ("eval", "list", "doctor", "prefetch", "report", "plot", "compare", "search", "tables")
VERBS += ("bench op", "bench model", "bench harness", "bench show")


def call(*arguments, **options):
    command = [sys.executable, str(ROOT / "run_eval.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capsys):
    assert cli.run([*verb.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example: python run_eval.py" in " ".join(shown.split())


def test_help_and_list_import_nothing_heavy():
    code = (
        "import sys; from nha_eval import cli; code = cli.run(['eval', '--help']) or cli.run(['compare', '--help']); "
        "code = code or cli.run(['tables', '--help']) or cli.run(['list']); "
        "heavy = {'torch', 'transformers', 'lm_eval', 'pandas', 'scipy', 'matplotlib', 'models'} & set(sys.modules); "
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert done.stderr.strip() == "set()"


def test_list_reads_the_presets_without_their_package():
    assert listing.preset_names() == presets.preset_names()


def test_help_is_quick():
    # Processor time: what else this machine does while it is tested takes none of it.
    def spent():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(3):
        began = spent()
        assert call("--help").returncode == 0
        times.append(spent() - began)
    assert min(times) < 0.5


def completed(*words):
    """What bash is given after `nha-eval WORDS...`, the last of them half typed."""
    typed = {"_NHA_EVAL_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("nha-eval", *words)), "COMP_CWORD": str(len(words))}
    done = call(env=os.environ | typed)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["hyb"], {"hybridize"}),
        (["bench", "ha"], {"harness"}),
        (["eval", "--tele"], {"--telemetry"}),
        (["eval", "quick"], {"quickstart"}),
        (["eval", "--model", "gsa-h"], {"gsa-h-tiny", "gsa-h-340m", "gsa-h-1.3b"}),
        (["eval", "--suite", "recall-l"], {"recall-local", "recall-lmeval"}),
        (["eval", "--task", "recall_needle_"], {"recall_needle_1", "recall_needle_4"}),
        (["plot", "window-"], {"window-accuracy"}),
        (["tables", "nha-r"], {"nha-ruler"}),
        (["train", "mqar-q"], {"mqar-quick"}),
        (["hybridize", "nha-l"], {"nha-llama-3-8b"}),
    ],
)
def test_a_shell_completes_verbs_options_and_names(words, names):
    assert set(completed(*words)) == names


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_of_this_program(shell):
    # What `--show-completion` prints, for the shell that it finds itself in.
    done = call(env=os.environ | {"_NHA_EVAL_COMPLETE": f"source_{shell}"})
    assert done.returncode == 0 and f"complete_{shell}" in done.stdout and "nha-eval" in done.stdout


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("nha-eval 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evl"], "eval"),
        (["eval"], "nothing to evaluate"),
        (["eval", "--modle", "x"], "--model"),
        (["eval", "--limit", "many", "--model", "nha-tiny"], "--limit"),
        (["eval", "--model", "nha-tiny", "--suite", "recall-local", "--window", "-1"], "window '-1'"),
        (["eval", "--model", "nha-tiny", "--suite", "recall-local", "--window", "16,abc"], "window 'abc'"),
        (["eval", "--model", "nha-tiny", "--dtype", "int4"], "`dtype` is 'int4'"),
        (["eval", "--model", "nha-tiny", "--no-costs", "--cost-length", "64"], "--no-costs"),
        (["eval", "--model", "nha-tiny", "--suite", "recall-local", "--cost-batch", "0"], "`costs.batch` is 0"),
        (["eval", "--model", "nha-tiny", "--suite", "recall-local", "--window", ","], "--window is ',', which names nothing"),
        (["eval", "--model", "nha-tiny", "--suite", "recall-local", "--out", ""], "`out` is ''"),
        (["eval", "--model", "nha-tiny", "--suite", "recall-local", "--window", "9" * 5000], "at most 2147483647 tokens"),
        (["eval", "--model", "nha-tiny", "--suite", "recall-local", "--out", "~no-such-user/x"], "nobody of that name"),
        (["eval", "--model", "x" * 10_000, "--suite", "recall-local"], "File name too long"),
        (["bench", "op", "--device", "cpu:7"], "device 'cpu:7': wanted is auto, cpu, cuda or cuda:N"),
        (["eval", "nowhere.yaml"], "no such spec file: 'nowhere.yaml'"),
        (["eval", "--model", "nha-tiny", "--suite", "recall-local", "--window", "16", "32"], "with commas, as in 16,32"),
        (["slurm", "quickstart", "--time", "never"], "time is 'never': wanted are minutes, or hours as in 08:00:00"),
        (["report", "nowhere"], "no such run: 'nowhere'"),
        (["plot", "pie-chart", "nowhere", "--out", "x.svg"], "no such plot: 'pie-chart'"),
        (["plot"], "Missing argument"),
        (["compare", "nowhere"], "no such run: 'nowhere'"),
        (["compare"], "Missing argument"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("error: ")
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("modle: x\n", "did you mean 'models'"), ("- x\n", "mapping"), ("a: [", "not YAML")],
)
def test_a_broken_spec_is_one_line_and_code_2(text, message, capsys, tmp_path):
    (tmp_path / "spec.yaml").write_text(text)
    assert cli.run(["eval", str(tmp_path / "spec.yaml")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_folder_whose_name_is_no_text_is_printed_as_it_is(tmp_path):
    folder = os.fsencode(tmp_path) + b"/run-\xff"
    Path(os.fsdecode(folder)).mkdir()
    Path(os.fsdecode(folder), "spec.yaml").write_text("{}")
    command = [os.fsencode(sys.executable), os.fsencode(ROOT / "run_eval.py"), b"report", folder]
    done = subprocess.run(command, capture_output=True, timeout=120, env={**os.environ, "PYTHONUTF8": "1"})
    assert done.returncode == 0 and folder + b"/report.html" in done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("windows", [["--window", "64"], ["--window", "16,64"]])
def test_windows_of_a_model_without_any_are_said_to_be_left_out(windows, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runs = []
    monkeypatch.setattr(runner.Run, "go", lambda run: runs.append(run) or 0)
    assert cli.run(["eval", "--model", "gsa-tiny", "--model", "nha-tiny", "--task", "commonsense_timedial", *windows]) == 0
    err = capsys.readouterr().err
    assert err.splitlines() == [
        f"note: gsa-tiny has no window; {windows[1].replace(',', ', ')} is not applied to it: it is run once, at window none"
    ]
    scored = [cell for cell in runs[0].cells if cell.kind == "score"]
    assert [cell.window for cell in scored if cell.model == "gsa-tiny"] == ["none"]
    assert [str(cell.window) for cell in scored if cell.model == "nha-tiny"] == windows[1].split(",")


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"{sys.executable} {ROOT / 'run_eval.py'} eval --help | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stderr == ""


def test_report_and_plot_of_a_run(tmp_path, capsys):
    fakes.make_run(tmp_path / "run").go()
    capsys.readouterr()
    assert cli.run(["report", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/report.html").is_file()
    kind = plot_kinds()[0]
    picture = tmp_path / "new/picture.svg"
    assert cli.run(["plot", kind, str(tmp_path / "run"), "--out", str(picture)]) == 0
    assert picture.read_text().lstrip().startswith("<?xml")
    assert cli.run(["plot", kind, str(tmp_path / "run"), "--out", str(tmp_path / "picture.doc")]) == 2
    assert "wanted is a name that ends in" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_keeps_no_line_breaks_of_the_source(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.run([*verb.split(), "--help"]) == 0
    told = capsys.readouterr().out.split("╭")[0].splitlines()
    paragraphs = [line.strip() for line in told if line.strip() and "Usage:" not in line]
    assert paragraphs and all(line.endswith(".") for line in paragraphs), paragraphs


def test_list_cuts_no_name_however_narrow_the_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.run(["list", "--json"]) == 0
    tasks = [task["task"] for suite in json.loads(capsys.readouterr().out)["suites"].values() for task in suite]
    assert cli.run(["list"]) == 0
    shown = capsys.readouterr().out
    assert len(tasks) > 40 and set(tasks) <= set(shown.split())
    assert "Suite recall-local (--suite), protocol recall-local\n" in shown


@pytest.mark.parametrize("notebook", [False, True])
def test_a_notebook_gets_plain_lines_where_a_terminal_gets_colours(notebook):
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TTY_COMPATIBLE")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | ({"JPY_PARENT_PID": "1"} if notebook else {})
    ours, theirs = os.openpty()
    try:
        command = [sys.executable, "-m", "nha_eval", "list"]
        running = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        shown = b""
        # A terminal whose other end is closed raises, and says that all is read.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
        assert running.wait(60) == 0
    finally:
        os.close(ours)
    assert b"Suite recall-local" in re.sub(rb"\x1b\[[0-9;]*m", b"", shown)
    assert (b"\x1b[" in shown) is not notebook


@pytest.mark.parametrize(
    "left", [None, b"", b"model,window\n", b"model,window\nnha-tiny"], ids=["gone", "empty", "header", "torn"]
)
def test_report_says_where_a_table_lost_what_cells_hold(left, tmp_path, capsys):
    fakes.make_run(tmp_path / "run").go()
    table = tmp_path / "run/scores.csv"
    whole = table.read_bytes()
    assert cli.run(["report", str(tmp_path / "run")]) == 0
    assert "cells/ holds more" not in capsys.readouterr().err
    table.unlink() if left is None else table.write_bytes(left)
    assert cli.run(["report", str(tmp_path / "run")]) == 0
    assert "note: cells/ holds more than scores.csv, and so than the report" in capsys.readouterr().err
    fakes.make_run(tmp_path / "run").go()
    assert table.read_bytes() == whole
