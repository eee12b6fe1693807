"""A disk that fills up during a study: it stops with two lines, and goes on once there is room."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run_command
from conftest import write_digits
from small_studies import search

from autotune.errors import StudyError
from autotune.study.summary import study_status

pytestmark = pytest.mark.slow
ROOM = 64 * 2**20


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """The folder `studies` on a file system of its own; skipped where none can be mounted."""
    folder = here / "studies"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Write a file that leaves this many bytes of the disk."""
    file = folder / "filler"
    disk = os.statvfs(folder)
    file.write_bytes(bytes(disk.f_bavail * disk.f_frsize - left))
    return file


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(20_000, marks=pytest.mark.in_make_faults),
        300_000,
        pytest.param(600_000, marks=pytest.mark.in_make_faults),
    ],
)
def test_a_full_disk_stops_the_study_which_goes_on_after_room_is_made(
    left: int, small_disk: Path, tmp_path: Path
) -> None:
    digits = write_digits(tmp_path / "digits")
    filler = fill(small_disk, left)
    with pytest.raises(StudyError, match=r"cannot be (written|used|created)") as error:
        search(digits, 3)
    assert "disk space" in error.value.fix
    filler.unlink()
    search(digits, 3)
    assert study_status("s").n_trials == {"complete": 3, "pruned": 0, "failed": 0, "total": 3}


def test_a_disk_that_fills_between_two_runs_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits")
    search(digits, 2)
    before = {row.number: row.value for row in study_status("s").leaderboard}
    filler = fill(small_disk, 100_000)
    with pytest.raises(StudyError, match="cannot be"):
        search(digits, 4)
    filler.unlink()
    found = search(digits, 4)
    after = {row["number"]: row["value"] for row in found["leaderboard"]}
    assert before.items() <= after.items()
    assert found["trials"]["complete"] == 4


SEARCH = ("--backbone", "quick_cnn", "--epochs", "3")
COMMANDS = (
    ("report", "s"),
    ("evaluate", "s"),
    ("export", "s"),
    ("studies", "rm", "s", "--yes"),
    ("search", "DATA", "--study", "s", *SEARCH, "--trials", "5"),
    ("search", "DATA", "--study", "new", *SEARCH, "--trials", "1"),
)


def test_a_read_only_folder_is_an_error_in_two_lines(small_disk: Path, searched: Path) -> None:
    shutil.copytree(searched, small_disk / "s")
    digits = searched.parents[1] / "digits3"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for words in COMMANDS:
        done = run_command(*(str(digits) if word == "DATA" else word for word in words), columns=500)
        assert done.returncode == 1, words
        assert "cannot be" in done.stderr
        assert "Traceback" not in done.stderr
    assert run_command("status", "s").returncode == 0
