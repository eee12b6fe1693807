"""Shared fixtures: real pictures, studies and folders."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from sklearn.datasets import load_digits

# Optional datasets of photos: in AUTOTUNE_TEST_DATA, or in a folder next to the checkout.
DATA = Path(os.environ.get("AUTOTUNE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

# A package with a plugin, found by its entry point, in commands that tests start too.
INSTALLED = Path(__file__).parent / "installed"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(INSTALLED), os.environ.get("PYTHONPATH"))))

# `make faults` runs the tests with the marker in_make_faults, which `make test` leaves out, and all of these folders.
IN_MAKE_FAULTS = "AUTOTUNE_FAULT_TIMES" in os.environ
FAULTS = ("faults", "fuzz", "engines", "serve")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--no-first-run")  # fmt: skip


def pytest_xdist_auto_num_workers() -> int:
    """Return the processes of `pytest -n auto`: one more than cores, as most tests wait for a process or for a disk."""
    return min((os.cpu_count() or 1) + 1, 4)


# The files that take longest. They begin first: at the end, the other processes would wait for them.
LONGEST = (
    "test_run.py", "test_finals.py", "test_sampler.py", "test_contract.py", "test_export.py", "test_trackers.py",
    "test_trial.py", "test_examples.py", "test_time_limit.py", "test_bundled.py", "test_range_test.py", "test_app.py",
    "test_report.py", "test_wheel.py", "test_visits_in_studies.py", "test_write_ups.py", "test_later.py",
    "test_report_finals.py", "test_plugins.py", "test_recipes.py", "test_migration.py", "test_browser.py",
    "test_formats.py", "test_live.py", "test_server.py", "test_check.py", "test_recommended.py", "test_fold.py",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    if IN_MAKE_FAULTS:
        others = [item for item in items if not _is_of_make_faults(item)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if _is_of_make_faults(item)]
    else:
        for item in items:
            if item.get_closest_marker("in_make_faults"):
                item.add_marker(pytest.mark.skip(reason="runs in `make faults`"))


def _is_of_make_faults(item: pytest.Item) -> bool:
    return item.path.parent.name in FAULTS or item.get_closest_marker("in_make_faults") is not None


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A separate cache folder, shared by all tests."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["AUTOTUNE_CACHE"] = str(folder)
    yield folder
    del os.environ["AUTOTUNE_CACHE"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write_digits(folder: Path, classes: int = 3, each: int = 50, first: int = 0) -> Path:
    """Write real handwritten digits as PNG files, one folder per class."""
    digits = load_digits()
    for label in range(classes):
        for number in np.flatnonzero(digits.target == label)[first : first + each]:
            file = folder / str(label) / f"{number:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[number] * 15.9375).round().astype(np.uint8)).save(file)
    return folder


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits3")


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, cache: Path, worker_id: str) -> Path:
    """A finished study of three digits, `studies/s`, without finals. Tests use copies of it.

    It is searched once for all processes of pytest-xdist, which share the folder above their own.
    """
    own = tmp_path_factory.getbasetemp()
    place = (own if worker_id == "master" else own.parent) / "searched"
    with FileLock(place.with_suffix(".lock")):
        if not (place / "done").exists():
            _search(place)
            (place / "done").touch()
    return place / "studies" / "s"


def _search(place: Path) -> None:
    from autotune.cli.live.console import PlainConsole
    from autotune.study.finals import race
    from autotune.study.request import SearchRequest
    from autotune.study.run import run_study

    data = write_digits(place / "digits3")
    flags = {"epochs": 3, "backbone": ["quick_cnn"]}
    with contextlib.chdir(place), mock.patch.object(race, "FINALS_SHARE", 0.0):
        run_study(SearchRequest(data=data, name="s", trials=4, flags=flags, device="cpu"), PlainConsole(quiet=True))


@pytest.fixture
def finished(searched: Path, here: Path) -> Path:
    """A copy of the finished study, in the working directory."""
    return Path(shutil.copytree(searched, here / "studies" / "s"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless browser; tests are skipped if none is installed."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next((place for name in BROWSERS if (place := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser installed: none of {', '.join(BROWSERS)}")
    with sync_api.sync_playwright() as player:
        opened = player.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield opened
        opened.close()


def photos(name: str) -> Path:
    """Return the folder of a real dataset; skip the test if it does not exist."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no dataset in {folder}")
    return folder
