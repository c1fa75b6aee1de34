"""Rules of the tree: imports go one way, and the package named `kernels` does not disturb Transformers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["kernels", "models", "tasks", "nha_eval"]
FILES = [file for package in ORDER for file in sorted((ROOT / package).rglob("*.py"))]


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file):
    own = ORDER.index(file.relative_to(ROOT).parts[0])
    assert not imported(file) & set(ORDER[own + 1 :])


def test_kernels_need_torch_alone():
    # fla (flash-linear-attention) is optional: the baselines import it inside functions, where it is installed.
    allowed = {"torch", "triton", "fla", "kernels", *sys.stdlib_module_names}
    for file in (ROOT / "kernels").rglob("*.py"):
        assert imported(file) <= allowed, file


def test_reports_plots_and_comparisons_need_no_torch():
    for folder in ("report", "plots", "comparison"):
        for file in (ROOT / "nha_eval" / folder).rglob("*.py"):
            assert not imported(file) & {"torch", "transformers", "models", "kernels"}, file


@pytest.mark.parametrize("folder", [ROOT, ROOT.parent], ids=["checkout", "installed"])
def test_transformers_does_not_take_our_kernels_for_the_other_package(folder):
    code = (
        "import transformers\n"
        "from transformers.utils import is_kernels_available\n"
        "assert is_kernels_available() in (True, False)\n"
        "import kernels\n"
        "from transformers.models.llama.modeling_llama import LlamaForCausalLM\n"
        "print(is_kernels_available())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "False"


def test_importing_kernels_imports_no_torch():
    code = "import sys, kernels; assert 'torch' not in sys.modules and not hasattr(kernels, '__version__')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
