"""Names, plugins, pages and bundles from strangers."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from commands import run_command
from conftest import write_digits

from autotune.errors import BundleError, StudyError
from autotune.export.bundle import write_index
from autotune.export.export import ExportRequest, export_trial
from autotune.export.predict import load
from autotune.study.check_request import study_folder
from autotune.study.listener import StudyListener
from autotune.study.request import Resources, SearchRequest
from autotune.text import visible

pytestmark = pytest.mark.slow
CHATTY = '''"""Chatty: prints wherever it can."""

import os

from torch import nn

from autotune import backbone

print("imported")


@backbone(pixels=8, features=8, from_scratch=True)
def chatty(pretrained):
    print("built")
    os.write(1, b"from a native library")
    return nn.Sequential(nn.Sequential(nn.Flatten(1), nn.Linear(192, 8)))
'''
ESCAPE = "\x1b]0;owned\x07\x1b[2J"


def test_a_plugin_that_prints_does_not_break_json(here: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "chatty.py").write_text(CHATTY)
    digits = write_digits(tmp_path / "digits")
    done = run_command(
        "search", str(digits), "--backbone", "chatty", "--plugins", str(tmp_path / "plugins"), "--trials", "1",
        "--epochs", "1", "--study", "s", "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["trials"]["total"] == 1
    predicted = run_command("predict", "s", str(next(digits.rglob("*.png"))), "--plugins", str(tmp_path / "plugins"),
                            "--json")  # fmt: skip
    assert [json.loads(line)["label"] for line in predicted.stdout.splitlines()]


def test_control_characters_of_names_never_reach_the_terminal(here: Path, tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits", classes=2)
    (digits / "0").rename(digits / f"zero{ESCAPE}")
    words = ("--backbone", "quick_cnn", "--trials", "1", "--epochs", "1", "--study", "s")
    for done in (
        run_command("search", str(digits), *words),
        run_command("status", "s"),
        run_command("data", str(digits)),
        run_command("predict", "s", str(digits / f"zero{ESCAPE}")),
        run_command("search", str(digits / f"none{ESCAPE}")),
    ):
        assert "\x1b]" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr


def test_invisible_characters_are_shown() -> None:
    assert visible("a\x1b[2Jb\u202ec\td\n") == "a\\x1b[2Jb\\u202ec\td\n"
    assert visible("Ünïcödé 猫 🐈") == "Ünïcödé 猫 🐈"


@pytest.mark.parametrize("name", ["<script>", "a\x1bb", "a\nb"])
def test_a_study_cannot_have_a_name_that_is_html_or_invisible(name: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be named"):
        study_folder(SearchRequest(data=tmp_path, name=name))


@pytest.mark.in_make_faults
def test_class_names_are_no_markdown_in_the_card(here: Path, tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "digits", classes=2)
    picture = "![x](http:example.org)"
    (digits / "0").rename(digits / picture)
    run_command("search", str(digits), "--backbone", "quick_cnn", "--trials", "1", "--epochs", "1", "--study", "s")
    export_trial("s", ExportRequest(here / "bundle"), Resources("cpu"), StudyListener())
    card = (here / "bundle" / "card.md").read_text(encoding="utf-8")
    assert picture not in card
    assert "\\!\\[x\\]\\(http:example.org\\)" in card


def test_the_dashboard_answers_only_requests_for_this_machine(finished: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    command = [sys.executable, "-m", "autotune", "dashboard", "s", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=finished.parents[1]) as server:
        assert server.stdout
        killer = threading.Timer(240, server.kill)
        killer.start()
        address = server.stdout.readline().split()[-1]
        with urllib.request.urlopen(address) as page:
            assert page.status == 200
        foreign = urllib.request.Request(address, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(foreign)
        server.kill()
        killer.cancel()


@pytest.fixture(scope="module")
def exported(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a finished study. Tests use copies of it."""
    place = tmp_path_factory.mktemp("exported")
    shutil.copytree(searched, place / "studies" / "s")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        export_trial("s", ExportRequest(place / "bundle"), Resources("cpu"), StudyListener())
    return place / "bundle"


def test_the_script_of_a_bundle_refuses_changed_files(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export_trial("s", ExportRequest(out), Resources("cpu"), StudyListener())
    picture = next(write_digits(tmp_path / "digits").rglob("*.png"))
    words = [sys.executable, str(out / "predict.py"), str(picture)]
    (out / "labels.txt").write_text("a\nb\nc\n")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "labels.txt has changed since the export" in done.stderr
    shutil.rmtree(out)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("preprocessing.json", '"pixels": 16,', '"pixels": 10000000,'),
        ("preprocessing.json", '"pixels": 16,', '"pixels": 64,'),
        ("preprocessing.json", '"pixels": 16,', '"pixels": "32",'),
        ("preprocessing.json", '"bilinear"', '"magic"'),
        ("preprocessing.json", '"threshold": 0', '"threshold": 7'),
        ("preprocessing.json", "{", "["),
        ("labels.txt", "0\n", ""),
        ("labels.txt", "0\n", "0\nzero\n"),
    ],
)
def test_a_bundle_with_impossible_values_and_right_hashes_is_refused(
    name: str, old: str, new: str, exported: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))
    write_index(folder, "s", 0)
    with pytest.raises(BundleError, match=r"is damaged|does not take|does not have one output"):
        load(str(folder), Resources("cpu"))


def test_a_bundle_with_random_bytes_and_right_hashes_is_refused_or_answers(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "bundle"))
    drawn = random.Random(0)
    for name in ("preprocessing.json", "labels.txt", "bundle.json", "model.onnx"):
        content = (folder / name).read_bytes()
        for _ in range(40):
            changed = bytearray(content)
            for _ in range(3):
                changed[drawn.randrange(len(changed))] = drawn.randrange(256)
            (folder / name).write_bytes(changed)
            if name != "bundle.json":
                write_index(folder, "s", 0)
            with contextlib.suppress(BundleError):
                load(str(folder), Resources("cpu"))
        (folder / name).write_bytes(content)
        write_index(folder, "s", 0)
