"""What a run writes down of where it was made."""

import os
import shutil
import subprocess

import pytest

from nha_eval import environment


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_looking_up_the_commit_writes_nothing_into_the_repository(tmp_path, monkeypatch):
    git = lambda *words: subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True, text=True)  # noqa: E731
    file = tmp_path / "nha_eval/environment.py"
    file.parent.mkdir()
    file.write_text("x = 1\n")
    git("init")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-m", "first")
    # Touched, though the same: git would note that in its index.
    os.utime(file, (1, 1))
    index = tmp_path / ".git/index"
    before = index.read_bytes()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.commit() == {"commit": git("rev-parse", "HEAD").stdout.strip(), "dirty": False}
    assert index.read_bytes() == before
