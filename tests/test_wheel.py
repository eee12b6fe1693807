"""The wheel, installed without the checkout."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import write_digits

from autotune import __version__
from autotune.backbones.registry import discover

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, *words: str | Path) -> str:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in words], check=False, cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_contains_all_plugins_and_runs_a_study(tmp_path: Path) -> None:
    run(ROOT, sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ".")
    (wheel,) = tmp_path.glob(f"autotune_vision-{__version__}-*.whl")
    run(tmp_path, sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    own = Path(run(tmp_path, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Share the dependencies by path: their .pth files, including the checkout's, are then not processed.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(tmp_path, sys.executable, "-m", "pip", "install", "--no-deps", "--target", own, wheel)
    home = run(tmp_path, python, "-c", "import autotune, autotune_plugins; print(autotune.__file__)").strip()
    assert Path(home).is_relative_to(own)
    packed = {Path(entry.file).name for entry in discover().backbones if entry.name != "quick_cnn"}
    assert packed <= {file.name for file in own.joinpath("autotune_plugins").iterdir()}
    digits = write_digits(tmp_path / "digits")
    words = ("--trials", "1", "--epochs", "1", "--backbone", "small_cnn", "--device", "cpu")
    out = run(tmp_path, python, "-m", "autotune", "search", digits, *words)
    assert "Accuracy: test" in out
