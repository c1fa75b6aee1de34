"""What is built and installed: an sdist and a wheel that hold every file of the packages, and a program that works anywhere."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from models import patterns
from nha_eval.plots import plot_kinds
from nha_eval.spec import spec_names
from nha_eval.tables.spec import table_names
from tasks.suites import suite_names

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "models", "tasks", "nha_eval")
BESIDE = ("pyproject.toml", "README.md", "LICENSE")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def call(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(package):
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The wheel, built from the sdist, which is built from a copy of the tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in BESIDE:
        shutil.copy(ROOT / name, copy)
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", copy)
    return copy / "dist"


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """A virtual environment that has the wheel alone; what it depends on is read from where these tests have it."""
    place = tmp_path_factory.mktemp("clean")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    call(sys.executable, "-m", "venv", place / "venv")
    python = place / "venv/bin/python"
    call(python, "-m", "pip", "install", "--no-deps", "--no-index", *dist.glob("*.whl"), env=environment)
    packages = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", env=environment).strip())
    # A path alone: its own .pth files, which would lead back to the checkout, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = place / "venv/bin/nha-eval"
    return lambda *words, **more: call(program, *words, cwd=place, env=environment | more)


def test_the_wheel_holds_every_file(dist):
    (wheel,) = dist.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert set().union(*map(files_of, PACKAGES)) <= held
    assert not [name for name in held if name.split("/")[0] not in PACKAGES and ".dist-info/" not in name]


def test_twine_finds_nothing_amiss(dist):
    assert len(list(dist.iterdir())) == 2
    assert "PASSED" in call(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())


def test_the_installed_program_has_all_that_the_checkout_has(installed):
    assert installed("--version").startswith("nha-eval 0.")
    found = json.loads(installed("list", "--json"))
    # Kept checkpoints lie in the checkout alone.
    assert found["presets"] == [name for name in patterns.preset_names() if name not in patterns.kept_names()]
    assert set(found["suites"]) == set(suite_names())
    assert set(found["specs"]) == set(spec_names())
    assert found["plots"] == plot_kinds() and found["tables"] == table_names()
    assert "complete -o default -F" in installed(_NHA_EVAL_COMPLETE="source_bash")


def test_the_installed_program_evaluates_and_reports(installed, tmp_path):
    words = ("--suite", "recall-local", "--task", "recall_needle", "--length", "256", "--contexts", "1", "--no-costs")
    installed("eval", "--model", "nha-tiny", *words, "--out", tmp_path / "run")
    assert (tmp_path / "run/report.html").stat().st_size > 10_000 and (tmp_path / "run/report.md").is_file()
    assert list((tmp_path / "run/plots").glob("*.svg"))
    assert "16.16" in installed("tables", "nha-main", "--format", "csv")
