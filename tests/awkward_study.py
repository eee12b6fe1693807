"""A small real study with awkward class and file names, for the tests of its report."""

import contextlib
import shutil
from pathlib import Path
from unittest import mock

import pytest
from conftest import write_digits
from PIL import Image

from autotune.study.finals import race
from autotune.study.listener import StudyListener
from autotune.study.request import SearchRequest
from autotune.study.run import run_study

SECTIONS = ("result", "mistakes", "classes", "pictures", "confusion", "calibration", "export", "curves", "trials",
            "hyperparameters", "backbones", "data", "reproduce")  # fmt: skip
NAMES = {"0": "<script>alert(1)<script>", "1": "Straße & \"so\" 'on'", "2": "{{ 7*7 }} $x$"}


def awkward(folder: Path) -> Path:
    """Write digits in awkwardly named classes, with a broken file, a stray one, a duplicate and conflicting labels."""
    write_digits(folder, classes=8, each=25)
    for old, new in NAMES.items():
        (folder / old).rename(folder / new)
    first, second, third = (folder / name for name in NAMES.values())
    (first / "broken <i>.png").write_bytes(b"x")
    own, other = (sorted(place.glob("0*.png")) for place in (first, second))
    Image.open(own[0]).save(first / "copy.bmp")
    Image.open(other[0]).save(third / "wrong.bmp")
    shutil.copy(own[1], folder / "stray.png")
    return folder


def finished(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the study "s", run once per test session, with its pictures in photos/."""
    folder = factory.getbasetemp() / "report"
    if not folder.is_dir():
        folder.mkdir()
        awkward(folder / "photos")
        flags = {"epochs": 2, "backbone": ["quick_cnn"], "pruner": "none"}
        # Finals are too expensive here, so the final model is a refit.
        with contextlib.chdir(folder), mock.patch.object(race, "FINALS_SHARE", 0.0):
            run_study(
                SearchRequest(data=folder / "photos", name="s", trials=4, flags=flags, device="cpu"),
                StudyListener(),
            )
    return folder
