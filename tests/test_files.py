import subprocess
import sys
from pathlib import Path

import pytest

from autotune.files import unfinished_folder

KILLED = """
import os, sys
from pathlib import Path
from autotune.files import unfinished_folder
with unfinished_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("x")
    os._exit(9)
"""


def test_what_a_killed_process_leaves_is_deleted_by_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert list(tmp_path.glob(".out.unfinished-*/half"))
    with unfinished_folder(tmp_path / "out") as folder:
        assert not list(tmp_path.glob("*/half"))
        folder.rename(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_of_a_running_process_is_kept(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path / "out") as first:
        (first / "half").write_text("x")
        with unfinished_folder(tmp_path / "out"):
            assert (first / "half").exists()


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), unfinished_folder(tmp_path / "out"):
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
