"""Thousands of mutated pictures: each is read, or skipped for a reason; none crashes, hangs or takes all memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.data.picture import BYTES_A_PIXEL, MOST_PIXELS

pytestmark = pytest.mark.slow
N_FILES = int(os.environ.get("AUTOTUNE_FUZZ_FILES", "300"))  # `make faults`: 10,000
SEED = int(os.environ.get("AUTOTUNE_FAULT_SEED", "0"))
IS_MEASURED = "AUTOTUNE_FUZZ_FILES" in os.environ  # elsewhere, other tests run at the same time
SCRIPT = Path(__file__).with_name("mutated_pictures.py")


def fuzzed(folder: Path) -> dict[str, Any]:
    """Read the files in a process of its own, which may crash. Returns what it printed."""
    command = [sys.executable, str(SCRIPT), str(SEED), str(N_FILES), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_mutated_pictures_are_read_or_skipped(tmp_path: Path) -> None:
    found = fuzzed(tmp_path)
    print(found)
    assert found["failures"] == {}
    assert found["read"] + found["unreadable"] == N_FILES
    assert min(found["read"], found["unreadable"]) > N_FILES / 20
    if IS_MEASURED:
        assert found["slowest_seconds"] < 2
        assert found["peak_bytes"] < BYTES_A_PIXEL * MOST_PIXELS + 500e6
