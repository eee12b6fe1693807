"""Plugins that never return, leave, or answer wrongly: the study ends in time and names them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_digits
from small_studies import search

from autotune.errors import PluginError
from autotune.study.listener import StudyListener
from autotune.study.summary import study_status
from autotune.study.timing import limits

pytestmark = pytest.mark.slow

PLUGIN = '''"""Stuck: a network that misbehaves."""

import os
import sys
import threading
import time

import torch
from torch import nn

from autotune import backbone


class Flat(nn.Linear):
    def forward(self, x):
        {forward}
        return super().forward(x)


@backbone(pixels=8, features=8, from_scratch=True)
def stuck(pretrained):
    {build}
    return nn.Sequential(nn.Sequential(nn.Flatten(1), Flat(192, 8)))
'''


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits")


def plugin(folder: Path, forward: str = "pass", build: str = "pass") -> tuple[Path, ...]:
    file = folder / "plugins" / "stuck.py"
    file.parent.mkdir()
    file.write_text(PLUGIN.format(forward=forward, build=build))
    return (file.parent,)


@pytest.mark.in_make_faults
def test_a_trial_that_never_returns_is_stopped_by_its_own_limit(here: Path, digits: Path, tmp_path: Path) -> None:
    stuck = plugin(tmp_path, "time.sleep(3600 if self.training and len(x) == 64 else 0)")
    flags = {"backbone": ["stuck"], "batch_size": [32, 64], "trial_timeout": 4.0}
    found = search(digits, 3, plugins=stuck, flags=flags)
    states = {row["params"]["batch_size"]: row["state"] for row in found["leaderboard"]}
    assert states[64] == "failed"
    assert states.get(32, "complete") in ("complete", "pruned")
    assert any(row.error == "it took longer than 4 s" for row in study_status("s").leaderboard)


def test_a_trial_that_never_returns_is_stopped_after_the_time_limit_and_is_not_lost(
    here: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GRACE", 2.0)
    stuck = plugin(tmp_path, "time.sleep(3600 if self.training and not os.path.exists('free') else 0)")
    start = time.monotonic()
    flags = {"backbone": ["stuck"]}
    found = search(digits, 2, plugins=stuck, timeout=6.0, flags=flags)
    assert time.monotonic() - start < 60
    assert found["trials"]["total"] == 0
    (here / "free").touch()
    assert search(digits, 2, plugins=stuck, flags=flags)["trials"] == {
        "complete": 2, "pruned": 0, "failed": 0, "total": 2,
    }  # fmt: skip


def test_a_plugin_that_never_returns_from_its_build_is_named_at_the_time_limit(
    here: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS_OVER", 1.0)
    start = time.monotonic()
    with pytest.raises(PluginError, match=r"stuck.*time limit"):
        search(
            digits, 2, plugins=plugin(tmp_path, build="time.sleep(3600)"), timeout=3.0, flags={"backbone": ["stuck"]}
        )
    assert time.monotonic() - start < 60


def test_a_plugin_that_leaves_in_its_build_is_an_error(here: Path, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="stuck"):
        search(digits, 2, plugins=plugin(tmp_path, build="sys.exit(0)"), flags={"backbone": ["stuck"]})


def test_a_plugin_that_returns_one_row_for_any_batch_is_an_error(here: Path, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="returns 1 rows for 2 pictures"):
        search(digits, 2, plugins=plugin(tmp_path, "x = x[:1]"), flags={"backbone": ["stuck"]})


@pytest.mark.in_make_faults
def test_a_thread_that_never_ends_does_not_keep_the_command_alive(here: Path, digits: Path, tmp_path: Path) -> None:
    (folder,) = plugin(tmp_path, build="threading.Thread(target=time.sleep, args=(3600,)).start()")
    words = ["search", str(digits), "--trials", "1", "--backbone", "stuck", "--epochs", "1", "--plugins", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "autotune", *words, "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("{")


OUT_OF_MEMORY = """if self.training and len(x) > {most}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")"""


def test_a_batch_that_is_too_large_for_the_memory_is_computed_in_parts(
    here: Path, digits: Path, tmp_path: Path
) -> None:
    small = plugin(tmp_path, OUT_OF_MEMORY.format(most=16))
    lines: list[str] = []

    class Lines(StudyListener):
        def say(self, text: str = "") -> None:
            lines.append(text)

    found = search(digits, 2, plugins=small, flags={"backbone": ["stuck"], "batch_size": 32}, listener=Lines())
    assert found["trials"]["failed"] == 0
    assert {row["n_parts"] for row in found["leaderboard"]} == {2}
    assert found["final"]["how"] == "refit"
    what = f"trial {found['final']['trial']} on the whole pool"
    assert f"Finals: {what}: out of memory, so each batch was computed in 2 parts" in lines


def test_a_trial_that_never_has_enough_memory_fails_after_three_tries(here: Path, digits: Path, tmp_path: Path) -> None:
    small = plugin(tmp_path, OUT_OF_MEMORY.format(most=0))
    found = search(digits, 1, plugins=small, flags={"backbone": ["stuck"]})
    assert found["trials"] == {"complete": 0, "pruned": 0, "failed": 1, "total": 1}
    log = (here / "studies" / "s" / "logs" / "trial-0000.log").read_text()
    assert log.count("torch.OutOfMemoryError: ") == 3


def test_a_broken_device_ends_the_worker_and_the_trial_is_trained_by_another(
    here: Path, digits: Path, tmp_path: Path
) -> None:
    broken = """if self.training and not os.path.exists('broken'):
            open('broken', 'w').close()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")"""
    found = search(digits, 2, plugins=plugin(tmp_path, broken), flags={"backbone": ["stuck"]})
    assert (here / "broken").exists()
    assert found["trials"]["failed"] == 0
    assert found["trials"]["total"] == 2
