"""Every notebook runs from top to bottom without a network, leaves nothing behind, and is kept without outputs."""

import os
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


@each_notebook
def test_no_outputs_are_kept(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)


@each_notebook
def test_its_links_lead_somewhere_and_the_readme_names_it(path):
    texts = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    links = [link for text in texts for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("https://")]
    assert all((path.parent / link).exists() for link in links), links
    assert f"(notebooks/{path.name})" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(900)
@each_notebook
def test_it_runs(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    # Nothing fetched earlier is there, and whatever asks for more meets a closed port.
    monkeypatch.setenv("NHA_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    before = files(ROOT)
    notebook = read(path)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    # What `!` starts may fail without its cell failing.
    printed = "".join(output.get("text", "") for output in outputs)
    assert not any(output.output_type == "error" for output in outputs) and not re.search("error: |Traceback", printed), printed
    assert files(ROOT) == before


def files(folder):
    """Where a notebook could leave something; caches that Python and others make do not count."""
    kept = {*folder.glob("notebooks/**/*"), *folder.glob("results/**/*"), *folder.glob("docs/**/*"), *folder.glob("*")}
    return {file for file in kept if file.is_file() and ".ipynb_checkpoints" not in file.parts}
