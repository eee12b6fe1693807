"""Processes killed at random moments of a whole study: the same command then ends with the same result.

`make test` kills driver and workers together, once; `make faults` kills either and both AUTOTUNE_FAULT_TIMES times, at
moments drawn with AUTOTUNE_FAULT_SEED.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_commands import finish, prepare, result, start

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("AUTOTUNE_FAULT_TIMES", "1"))
SEED = int(os.environ.get("AUTOTUNE_FAULT_SEED", "0"))


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
