"""The short form of the fault campaign, `make faults`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "faults" / "campaign.py"


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.timeout(1500)
def test_every_fault_once_and_some_kills(tmp_path):
    command = [sys.executable, str(CAMPAIGN), "--out", str(tmp_path), "--seed", "1", "--kills", "4"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    faults = [record["fault"] for record in json.loads((tmp_path / "faults.json").read_text())["faults"]]
    assert faults.count("corrupt") == 6
    assert faults.count("kill") == 4
    single = {"checkpoint", "out of memory", "Ray actor killed", "twice", "read-only", "full disk"}
    assert single <= set(faults)
