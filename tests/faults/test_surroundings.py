"""Unusual names, terminals and environments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from conftest import write_digits
from PIL import Image

from autotune.data.catalog import read_catalog
from autotune.errors import DataError

pytestmark = pytest.mark.slow
LABELS = ["0", "😀🐱", "x" * 200, "עברית", "q\"uote's", "tab\there", "-dash", " space "]
NAMES = [b"bad\xff\xfe.png", b"new\nline.png", "\u202egnp.exe.png".encode(), b"q'uo\"te.png", b"e" * 240 + b".png"]
PATHS = {"PATH": os.defpath, "PYTHONPATH": os.environ["PYTHONPATH"]}
QUICK = ("--trials", "1", "--epochs", "1", "--backbone", "quick_cnn", "--pixels", "16")


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in an environment of these variables only."""
    command = [sys.executable, "-m", "autotune", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with classes and pictures that are named unusually."""
    folder = tmp_path_factory.mktemp("strange")
    rng = np.random.default_rng(0)

    def save(path: bytes) -> None:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "one.png")
        (folder / "one.png").rename(os.fsdecode(path))

    for label in LABELS:
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(20):
            save(os.fsencode(folder / "photos" / label / f"{number}.png"))
    for name in NAMES:
        save(os.fsencode(folder / "photos" / "0") + b"/" + name)
    return folder


@pytest.mark.in_make_faults
@pytest.mark.parametrize(
    "variables",
    [
        PATHS,  # no HOME, no locale
        {**PATHS, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"},
        {**PATHS, "PYTHONIOENCODING": "ascii", "COLUMNS": "40"},
    ],
)
def test_every_command_runs_with_unusual_names_in_an_unusual_environment(
    variables: dict[str, str], strange: Path, tmp_path: Path
) -> None:
    variables = {**variables, "AUTOTUNE_CACHE": str(tmp_path / "cache")}
    photos = str(strange / "photos")
    for words in (
        ("data", photos),
        ("search", photos, *QUICK),
        ("status", "photos"),
        ("report", "photos"),
        ("export", "photos"),
        ("predict", "studies/photos/bundle", f"{photos}/0"),
        ("studies",),
        ("cache",),
    ):
        done = run(tmp_path, *words, **variables)
        assert done.returncode == 0, (words, done.stderr[-2000:])
    done = run(tmp_path, "predict", "photos", f"{photos}/0", "--json", **variables)
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 20 + len(NAMES)


def test_a_class_name_of_two_lines_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "photos", classes=2, each=2)
    (folder / "0").rename(folder / "a\nb")
    with pytest.raises(DataError, match=r"The name of class 'a\\nb' is not a single line"):
        read_catalog(folder)


def test_a_study_that_was_moved_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    write_digits(tmp_path / "here" / "photos", classes=2, each=20)
    words = ("photos", "--epochs", "1", "--backbone", "quick_cnn", "--json")
    monkeypatch.chdir(tmp_path / "here")
    first = run_command("search", *words, "--trials", "1")
    assert first.returncode == 0, first.stderr
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    more = run_command("search", *words, "--trials", "2")
    assert more.returncode == 0, more.stderr
    found = json.loads(more.stdout)
    assert found["trials"]["total"] == 2
    assert found["leaderboard"][0]["number"] in (0, 1)
    for command in ("status", "evaluate", "export"):
        done = run_command(command, "photos")
        assert done.returncode == 0, (command, done.stderr)
