"""`report`, `plot` and `bench show` of folders that hold junk: drawn as far as they go, or refused in one line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_run import full_run
from spec_inputs import FRAGMENTS, HOSTILE, JUNK, anything, yaml_of

from nha_eval import cli

DEEP = "[" * 100_000
FILES = ("spec.yaml", "environment.json", "scores.csv", "costs.csv")
numbers = st.sampled_from(
    ["", "nan", "inf", "-1", "1e308", "1e999", "0", "x", "9" * 5000, "١", "0x10", "1,5", "-0.0", "1e-320"]
)
words = st.sampled_from((*HOSTILE, "ok", "error", "16", "full", "none", "prefill", "decode", "-5", "1e5")).map(
    lambda text: (
        text.encode("utf-8", "replace").decode().replace('"', "'").replace("\0", " ").replace("\n", " ").replace("\r", " ")
    )
)


@st.composite
def tables(draw, of):
    """A table in which some cells hold other things, lines are missing or torn, or columns are."""
    lines = [line.split(",") for line in of.splitlines()]
    for _ in range(draw(st.integers(1, 12))):
        row = draw(st.integers(0, len(lines) - 1))
        column = draw(st.integers(0, len(lines[row]) - 1))
        lines[row][column] = '"' + draw(words | numbers) + '"'
    text = "\n".join(",".join(line) for line in lines)
    torn = draw(st.sampled_from([0, 0, 1, 7, len(text) // 2, len(text) - 1]))
    return text[torn:].encode()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return full_run(tmp_path_factory.mktemp("runs") / "whole")


def junk(whole):
    other = st.sampled_from([part.encode() for part in FRAGMENTS] + list(JUNK) + [DEEP.encode(), b"", b"\n", b"a,b\n1\n", b'"'])
    other |= anything.map(lambda value: yaml_of(value).encode()) | st.binary(max_size=40)
    other |= anything.map(lambda value: json.dumps(value, default=str, skipkeys=True).encode())
    changed = {name: tables((whole / name).read_text()) | other for name in ("scores.csv", "costs.csv")}
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(FILES, other), **changed})


def campaign(count, whole, folder, capsys, command):
    codes = []

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(junk(whole))
    def each(files):
        for name in FILES:
            content = files.get(name, (whole / name).read_bytes())
            (folder / name).write_bytes(content)
        code = cli.run([part.replace("{}", str(folder)) for part in command])
        err = capsys.readouterr().err
        assert code in (0, 2), err
        assert code == 0 or (err.startswith("error: ") and err.count("\n") == 1 and len(err) < 720), err
        codes.append(code)

    each()
    return codes


REPORT, PLOT = ["report", "{}"], ["plot", "accuracy-cost", "{}", "--out={}/picture.svg"]


@pytest.mark.parametrize(("command", "count"), [(REPORT, 3), (PLOT, 12)], ids=["report", "plot"])
def test_some_junk(command, count, whole, tmp_path, capsys):
    assert 0 in campaign(count, whole, tmp_path, capsys, command)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "count"), [(REPORT, 30), (PLOT, 120)], ids=["report", "plot"])
def test_much_junk(command, count, whole, tmp_path, capsys):
    assert 0 in campaign(count, whole, tmp_path, capsys, command)


@pytest.mark.parametrize("table", ["bench-op.csv", "bench-model.csv"])
@pytest.mark.parametrize(
    "content", [*JUNK, b"", b"a,b\n1,2\n", DEEP.encode(), b'"', b"x," * 5000 + b"\n"], ids=range(len(JUNK) + 5)
)
def test_figures_that_are_junk(table, content, tmp_path, capsys):
    (tmp_path / table).write_bytes(content)
    assert cli.run(["bench", "show", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
