"""Processes killed at random moments of a whole study: the same command then ends with the same result.

They run in `make faults`, which kills driver, workers and both AUTOTUNE_FAULT_TIMES times, at moments drawn with
AUTOTUNE_FAULT_SEED. `make test` kills in the middle of a trial (study/test_run.py) and of the finals
(study/test_finals.py).
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
from small_commands import SEARCH, begin, finish, prepare, result, start

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


@pytest.mark.in_make_faults
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


@pytest.mark.in_make_faults
@pytest.mark.parametrize("names", ["SIGINT SIGINT", "SIGINT", "SIGHUP", "SIGTERM"][-TIMES:])
def test_a_signal_at_a_random_moment_ends_the_command_and_loses_nothing(
    names: str, whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, seconds = whole
    folder = prepare(tmp_path)
    process = start(folder)
    time.sleep(random.Random(f"{SEED} {names}").uniform(2, seconds))
    workers = victims(process, "workers")
    for name in names.split():
        process.send_signal(getattr(signal, name))
        time.sleep(0.2)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert result(finish(folder)) == expected


@pytest.mark.in_make_faults
def test_a_closed_pipe_ends_the_command_quietly(whole: tuple[dict[str, Any], float], tmp_path: Path) -> None:
    """As in `autotune search photos | head -1`."""
    expected, _ = whole
    folder = prepare(tmp_path)
    process = begin(folder, *SEARCH)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=120)
    assert result(finish(folder)) == expected


@pytest.mark.in_make_faults
@pytest.mark.parametrize("words", [("export", "digits"), ("report", "digits"), ("evaluate", "digits")])
def test_sigkill_of_a_command_that_writes_leaves_nothing_behind(words: tuple[str, ...], tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    finish(folder)
    begun = time.monotonic()
    assert begin(folder, *words).wait(timeout=120) == 0
    seconds = time.monotonic() - begun
    drawn = random.Random(f"{SEED} {words}")
    for _ in range(max(TIMES // 3, 2)):
        process = begin(folder, *words)
        time.sleep(drawn.uniform(0, seconds))
        for one in victims(process, "both"):
            one.kill()
        process.communicate()
    again = begin(folder, *words)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    left = [file for file in folder.rglob("*") if "unfinished" in file.name or file.suffix == ".tmp"]
    assert not left
