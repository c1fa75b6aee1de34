"""YAML from elsewhere: what is refused, that nothing in it runs, and that no few lines fill the memory."""

import ast
import time
from pathlib import Path

import pytest
import yaml

from nha_eval import yamls

ROOT = Path(yamls.__file__).parents[1]
# Nine of nine of nine ...: 9 ** 9 values in 300 characters.
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]\n" for i in range(1, 10))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "anchors that unfold to more than"),
        (CHAIN, "anchors that unfold to more than"),
        ("&a [*a]", "stands inside itself"),
        ("a: &a {b: *a}", "stands inside itself"),
        ("[" * 100_000, "values inside each other"),
        ("{a: " * 100 + "1" + "}" * 100, "values inside each other"),
        ("models: a\nmodels: b\n", "the key 'models' is given twice"),
        ("x: {a: 1, a: 2}", "the key 'a' is given twice"),
        ("a: *nowhere", "undefined alias"),
        ("a: !!int x", "not what it is said to be"),
        ("a: !!bool maybe", "not what it is said to be"),
        ("a: !!float .", "not what it is said to be"),
        ("a: !!timestamp x", "not what it is said to be"),
        ("a: 2020-13-45", "not what it is said to be"),
        ("a: " + "9" * 5000, "not what it is said to be"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("!!python/object/apply:os.system [exit]", "could not determine a constructor"),
        ("!!python/object/new:type [x]", "could not determine a constructor"),
        ("a: !own x", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable key"),
        ("a\0b", "special characters"),
        ("--- a\n--- b", "single document"),
    ],
)
def test_refused(text, message):
    began = time.monotonic()
    with pytest.raises(yaml.YAMLError, match=message):
        yamls.load(text)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models: &m [a, b]\nothers: *m\n",
        "base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\n",
        "a: 1\nb: {a: 1}\nc: [{a: 1}, {a: 2}]\n",
        "[" * 31 + "]" * 31,
        "1: a\n'1': b\n",
        "a: 2020-02-29\nb: !!binary aGk=\nc: !!set {x, y}\n",
    ],
)
def test_the_rest_is_as_yaml_reads_it(text):
    assert yamls.load(text) == yaml.safe_load(text)


def test_numbers_in_scientific_form():
    assert yamls.load("[1e-3, 1.5e-3, -2E+4, 1e3, e-3, 1e-3x]") == [0.001, 0.0015, -20000.0, "1e3", "e-3", "1e-3x"]


def test_long_files_are_not_read(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_bytes(b"a: [" + b"x, " * 100_000 + b"x]")
    with pytest.raises(yaml.YAMLError, match="longer than"):
        yamls.read(path)


def calls(file):
    """(name, keywords that are the constant True) of every call in a file, `a.b(...)` as `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield (
                ast.unparse(node.func),
                {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value is True},
            )


@pytest.mark.parametrize("package", ["kernels", "models", "tasks", "nha_eval"])
def test_nothing_here_runs_what_it_reads(package):
    unsafe = {
        "yaml.unsafe_load",
        "yaml.full_load",
        "yaml.load_all",
        "eval",
        "exec",
        "torch.load",
        "pickle.load",
        "pickle.loads",
    }
    for file in (ROOT / package).rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        for name, true in calls(file):
            assert name not in unsafe and not true & {"trust_remote_code", "allow_pickle"}, (file, name)
            # Only over loaders made of PyYAML's safe one.
            assert name != "yaml.load" or "class _Loader(yaml.SafeLoader)" in source, file
