"""The dashboard in a real browser while a real search writes to the same database."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import optuna
import pytest
from commands import run_command
from small_studies import without_time

from autotune.errors import AutotuneError, StudyError
from autotune.report.dashboard import serve_dashboard
from autotune.search.optuna_study import STUDY_NAME, OptunaStudy
from autotune.search.settings import Settings
from autotune.study.storage.record import Record
from autotune.study.summary import study_status

SHOT = os.environ.get("AUTOTUNE_TEST_SHOT")  # where to save a screenshot of the page, for manual inspection


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "autotune", *words]


@contextmanager
def served(study: str, seconds: float = 60) -> Iterator[tuple[str, Any]]:
    """Start `autotune dashboard`, again until the study has trials, and yield its address and process."""
    end = time.monotonic() + seconds
    while True:
        process = subprocess.Popen(
            command("dashboard", study, "--port", "0"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout
        if line := process.stdout.readline():
            break
        process.wait()
        assert time.monotonic() < end, process.communicate()
    try:
        yield line.strip().rpartition(" ")[2], process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=20) as response:
        return response.read()  # type: ignore[no-any-return]


@pytest.fixture
def started(here: Path) -> Path:
    """A study whose search was created but has no trials yet."""
    folder = here / "studies" / "s"
    folder.mkdir(parents=True)
    Record(folder / "record.db").close()
    OptunaStudy(folder / "trials.db", Settings(epochs=4), ())
    return folder


@pytest.mark.slow
@pytest.mark.in_make_faults
def test_dashboard_shows_a_running_search_without_changing_its_result(browser: Any, here: Path, digits: Path) -> None:
    words = ("search", str(digits), "--trials", "10", "--backbone", "quick_cnn", "--epochs", "3", "--device", "cpu")
    assert run_command(*words, "--study", "alone", "--quiet").returncode == 0
    watched = subprocess.Popen(command(*words, "--study", "watched", "--quiet"))
    page, seen = browser.new_page(viewport={"width": 1280, "height": 900}), set()
    with served("watched") as (address, _):
        page.goto(address)
        page.wait_for_url(f"{address}/dashboard/studies/1*")
        page.goto(f"{address}/dashboard/studies/1/trials")
        while watched.poll() is None:
            page.reload()
            page.wait_for_selector("text=/Trial \\d+/")
            if watched.poll() is None:
                seen |= set(re.findall(r"Trial (\d+)", page.inner_text("body")))
            page.wait_for_timeout(1000)  # leave the CPU to the search
        assert len(seen) >= 2, "the page showed no trials while the search ran"
        page.goto(f"{address}/dashboard/studies/1")
        page.wait_for_selector("text=Best Trial")
        page.wait_for_timeout(2000)  # wait for the charts
        if SHOT:
            page.screenshot(path=SHOT, full_page=True)
        trials = optuna.load_study(study_name=STUDY_NAME, storage="sqlite:///studies/watched/trials.db")
        assert str(trials.best_value) in page.inner_text("body")
    assert watched.returncode == 0
    alone, found = study_status("alone"), study_status("watched")
    assert without_time(found.to_json()) == without_time(alone.to_json())
    assert found.test == alone.test


@pytest.mark.slow
def test_dashboard_rejects_writes_and_ctrl_c_stops_it_without_output(finished: Path) -> None:
    file = finished / "trials.db"
    before = file.read_bytes()
    with served("s") as (address, process):
        assert b'"study_name": "autotune"' in get(f"{address}/api/studies")
        for kind, path, body in (
            ("DELETE", "api/studies/1", b"{}"),
            ("POST", "api/studies", b'{"study_name": "x", "directions": ["maximize"]}'),
            ("PUT", "api/studies/1/note", b'{"version": 1, "body": "x"}'),
        ):
            request = urllib.request.Request(
                f"{address}/{path}", body, {"Content-Type": "application/json"}, method=kind
            )
            with pytest.raises(HTTPError) as rejected:
                urllib.request.urlopen(request, timeout=20)
            assert rejected.value.code == 500
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0
    assert stderr == ""
    assert file.read_bytes() == before


def test_a_port_in_use_raises_an_error_with_a_fix(started: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AutotuneError, match=f"Port {port} cannot be used") as error:
            serve_dashboard("s", port, print)
    assert "--port" in error.value.fix


@pytest.mark.parametrize("state", ["no file", "no tables", "interrupted write"])
def test_a_study_without_trials_raises_an_error(started: Path, state: str) -> None:
    file = started / "trials.db"
    if state == "interrupted write":
        interrupt_write(file)
    else:
        file.unlink()
    if state == "no tables":
        file.touch()
    with pytest.raises(StudyError, match="no trials to show yet"):
        serve_dashboard("s", 0, print)


def interrupt_write(file: Path) -> None:
    """Leave the file as after kill -9 during a commit: half written, with the journal needed to roll back."""
    copy = file.with_name("copy.db")
    shutil.copy(file, copy)
    db = sqlite3.connect(copy)
    db.execute("pragma cache_size = 1")
    db.execute("begin immediate")
    db.execute("create table filler (x)")
    db.executemany("insert into filler values (?)", [("x" * 900,)] * 2000)
    shutil.copy(copy, file)
    shutil.copy(f"{copy}-journal", f"{file}-journal")
    db.rollback()
    db.close()


def test_missing_optuna_dashboard_raises_an_error(started: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(AutotuneError) as error:
        serve_dashboard("s", 0, print)
    assert "pip install 'autotune-vision[dashboard]'" in error.value.fix
