"""The wheel, installed without the checkout."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

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


def test_the_wheel_contains_all_files_and_lists_the_plugins(tmp_path: Path) -> None:
    run(ROOT, sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ".")
    (wheel,) = tmp_path.glob(f"autotune_vision-{__version__}-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        packed = {Path(name) for name in opened.namelist()}
    rooms = {ROOT / "autotune": Path("autotune"), ROOT / "plugins": Path("autotune_plugins")}
    for folder, room in rooms.items():
        files = [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        assert {room / file.relative_to(folder) for file in files} <= packed
    run(tmp_path, sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    own = Path(run(tmp_path, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Share the dependencies by path: their .pth files, including the checkout's, are then not processed.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(tmp_path, sys.executable, "-m", "pip", "install", "--no-deps", "--target", own, wheel)
    listed = run(tmp_path, python, "-m", "autotune", "plugins")
    assert str(own / "autotune_plugins" / "resnet.py") in listed
    names = {entry.name for entry in discover().backbones if entry.name != "quick_cnn"}
    assert names <= set(listed.splitlines())
