"""A small study as a command in a process of its own, in a folder with its own cache."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import write_digits
from small_studies import without_time

WORDS = (
    "--trials",
    "5",
    "--backbone",
    "efficientnet_lite0",
    "--epochs",
    "3",
    "--seed",
    "3",
    "--device",
    "cpu",
    "--json",
)
TOML = '[space]\npixels = [64]\ndepth = [0, 1]\noptimizer = ["adamw"]\n'


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the search in a folder, with a cache of its own."""
    around = {**os.environ, "AUTOTUNE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "autotune", "search", "digits", *WORDS]
    return subprocess.Popen(words, cwd=folder, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
