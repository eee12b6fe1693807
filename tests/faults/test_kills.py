"""Processes killed at random moments of a whole study: the same command then ends with the same result.

`make test` kills driver and workers together, once; `make faults` kills either and both AUTOTUNE_FAULT_TIMES times, at
moments drawn with AUTOTUNE_FAULT_SEED.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import write_digits
from small_studies import without_time

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("AUTOTUNE_FAULT_TIMES", "1"))
SEED = int(os.environ.get("AUTOTUNE_FAULT_SEED", "0"))
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The result of the study without interruptions, and its seconds."""
    folder = prepare(tmp_path_factory.mktemp("whole"))
    begin = time.monotonic()
    return result(finish(folder)), time.monotonic() - begin


def victims(driver: subprocess.Popen[str], who: str) -> list[psutil.Process]:
    """Return the driver, its workers, or all of them, as far as they live."""
    try:
        own = psutil.Process(driver.pid)
        workers: list[psutil.Process] = own.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    chosen = {"driver": [own], "workers": workers, "both": [own, *workers]}
    return chosen[who]


@pytest.mark.parametrize("number", range(TIMES))
@pytest.mark.parametrize("who", ["driver", "workers", "both"][-TIMES:])
def test_sigkill_at_a_random_moment_changes_no_result(
    who: str, number: int, whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, seconds = whole
    drawn = random.Random(f"{SEED} {number} {who}")
    folder = prepare(tmp_path)
    process = start(folder)
    time.sleep(drawn.uniform(0, seconds))
    killed = victims(process, who)
    for one in killed:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.communicate(timeout=300)
    psutil.wait_procs(killed, timeout=30)
    assert result(finish(folder)) == expected
    assert not list(folder.rglob("*unfinished*"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM"][-TIMES:])
def test_a_signal_at_a_random_moment_ends_the_command_and_loses_nothing(
    name: str, whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, seconds = whole
    folder = prepare(tmp_path)
    process = start(folder)
    time.sleep(random.Random(f"{SEED} {name}").uniform(2, seconds))
    workers = victims(process, "workers")
    process.send_signal(getattr(signal, name))
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert result(finish(folder)) == expected
