import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run_command

from autotune.cli.options import backbone_names, metric_names, study_names
from autotune.errors import StudyError
from autotune.study.storage.lock import lock_study
from autotune.study.studies import list_studies, remove_study


def test_studies_are_listed_with_their_scores(finished: Path) -> None:
    (row,) = json.loads(run_command("studies", "--json").stdout)["studies"]
    assert (row["name"], row["trials"], row["metric"]) == ("s", 4, "accuracy")
    assert 0 < row["test"] <= 1
    assert "s " in run_command("studies").stdout


def test_a_damaged_study_does_not_hide_the_others(finished: Path) -> None:
    other = finished.parent / "broken"
    other.mkdir()
    (other / "record.db").write_bytes(b"not a database" * 100)
    rows = {row.name: row for row in list_studies()}
    assert "is damaged" in rows["broken"].problem
    assert rows["s"].problem == ""


def test_removing_asks_first_and_keeps_study_toml_and_notes(finished: Path) -> None:
    (finished / "study.toml").write_text("epochs = 3\n")
    (finished / "README.md").write_text("Why 3?\n")
    asked = run_command("studies", "rm", "s")
    assert (asked.returncode, (finished / "record.db").exists()) == (1, True)
    assert "autotune studies rm s --yes" in asked.stderr
    done = run_command("studies", "rm", "s", "--yes")
    assert "Removed study s, 4 trials" in done.stdout
    assert sorted(path.name for path in finished.iterdir()) == ["README.md", "study.toml"]
    assert run_command("studies", "rm", "s", "--yes").returncode == 1


def test_removing_a_study_without_study_toml_removes_its_folder(finished: Path) -> None:
    (finished / "study.toml").unlink(missing_ok=True)
    remove_study("s")
    assert not finished.exists()


def test_a_study_in_use_is_not_removed(finished: Path) -> None:
    with lock_study(finished), pytest.raises(StudyError, match="in use by another process"):
        remove_study("s")
    assert (finished / "record.db").exists()


def test_the_list_without_studies_explains_how_to_start_one(here: Path) -> None:
    assert "autotune search PHOTOS" in run_command("studies").stdout


def test_names_are_completed(finished: Path) -> None:
    assert study_names("") == ["s"]
    assert backbone_names("resn") == ["resnet18", "resnet50"]
    assert backbone_names("vgg16,timm") == ["vgg16,timm:"]
    assert metric_names("ma") == ["macro_f1"]


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("autotune status ", "s"),
        ("autotune search --backbone vgg", "vgg16"),
        ("autotune search --metric ba", "balanced_accuracy"),
    ],
)
def test_the_shell_gets_completions(finished: Path, line: str, completed: str) -> None:
    words = {"_AUTOTUNE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    command = [sys.executable, "-c", "from autotune.cli.app import app; app(prog_name='autotune')"]
    out = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=False)
    assert out.stdout.split() == [completed]
