"""A small study as a command in a process of its own, in a folder with its own cache."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import write_digits
from small_studies import without_time

SEARCH = ("search", "digits", "--trials", "4", "--backbone", "efficientnet_lite0", "--epochs", "3", "--seed", "3",
          "--device", "cpu")  # fmt: skip
TOML = """\
[[recipe]]
epochs = 2
lr_low = 1e-3
lr_high = 1e-2

[[recipe]]
depth = 1
epochs = 2
lr_low = 1e-4
lr_high = 1e-3

[space]
pixels = [32]
depth = [0, 1]
optimizer = ["adamw"]
"""


def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command in a folder, with a cache of its own."""
    around = {**os.environ, "AUTOTUNE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "autotune", *words]
    return subprocess.Popen(command, cwd=folder, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the search, which prints JSON at its end."""
    return begin(folder, *SEARCH, "--json")


def prepare(folder: Path) -> Path:
    write_digits(folder / "digits", classes=3, each=40)
    study = folder / "studies" / "digits"
    study.mkdir(parents=True)
    (study / "study.toml").write_text(TOML)
    return folder


def finish(folder: Path) -> dict[str, Any]:
    process = start(folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def result(found: dict[str, Any]) -> dict[str, Any]:
    """Return what must not depend on interruptions."""
    final = {name: value for name, value in found["final"].items() if name != "checkpoint"}
    return {"trials": without_time(found), "finals": found["finals"], "final": final, "test": found["test"]}
