import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import run_command
from conftest import write_digits
from PIL import Image
from typer.main import get_command

import autotune
from autotune.cli.app import app
from autotune.cli.options import seconds_of
from autotune.study.storage.lock import lock_study


def run_in_a_process(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "autotune", *words], capture_output=True, text=True, check=False)


def test_help_names_every_command() -> None:
    out = run_in_a_process("--help")
    assert out.returncode == 0
    commands: Any = get_command(app)
    assert len(commands.commands) >= 12
    assert all(re.search(rf"^\W*{name}\s", out.stdout, re.MULTILINE) for name in commands.commands)


def test_an_error_is_two_lines_and_exit_code_1(here: Path) -> None:
    out = run_command("search", "nowhere", "--quiet")
    assert (out.returncode, out.stdout) == (1, "")
    lines = out.stderr.splitlines()
    assert len(lines) == 2
    assert "does not exist" in lines[0]
    assert not (here / "studies").exists()


def test_a_study_without_suspects_is_a_usage_error(here: Path) -> None:
    out = run_command("data", "nowhere", "--study", "s")
    assert out.returncode == 2
    assert "--study needs --suspects" in out.stderr


def test_the_version_is_printed() -> None:
    assert run_command("--version").stdout == f"autotune {autotune.__version__}\n"


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (("serch",), "autotune"),
        (("search", "--trials"), "autotune"),
        (("search", "--trials", "0"), "autotune search"),
        (("search", "--timeout", "5x"), "autotune search"),
        (("studies", "rm", "--nope"), "autotune studies rm"),
        (("status",), "autotune status"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_code_2(here: Path, words: tuple[str, ...], about: str) -> None:
    out = run_command(*words, columns=200)
    assert (out.returncode, out.stdout) == (2, "")
    assert out.stderr.splitlines()[1:] == [f"For the options: {about} --help"]


def test_ctrl_c_at_a_question_ends_the_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(standalone_mode: bool) -> None:
        raise typer.Abort

    monkeypatch.setattr("autotune.cli.main.app", interrupted)
    out = run_command("studies", "rm", "s")
    assert (out.returncode, out.stderr) == (1, "Aborted.\n")


def test_without_a_command_the_help_is_printed() -> None:
    out = run_command()
    assert out.returncode == 0
    assert "Usage: autotune" in out.stdout


def test_an_unknown_study_suggests_the_nearest(here: Path) -> None:
    (here / "studies" / "cats").mkdir(parents=True)
    (here / "studies" / "cats" / "record.db").write_bytes(b"")
    out = run_command("status", "cat")
    assert out.returncode == 1
    assert "Did you mean 'cats'?" in out.stderr


def test_data_shows_what_a_study_would_use(here: Path, digits: Path) -> None:
    (digits / "0" / "bad.png").write_bytes(b"x")
    some = sorted((digits / "0").glob("0*.png"))
    Image.open(some[0]).save(digits / "0" / "copy.bmp")
    Image.open(some[1]).save(digits / "1" / "wrong.bmp")
    out = run_command("data", str(digits), "--json")
    found = json.loads(out.stdout)
    assert found["classes"] == {"0": 51, "1": 51, "2": 50}
    assert [one["path"] for one in found["skipped"]] == ["0/bad.png"]
    assert sorted(map(sorted, found["duplicates"])) == [
        ["0/" + some[0].name, "0/copy.bmp"],
        ["0/" + some[1].name, "1/wrong.bmp"],
    ]
    assert {one["label"] for one in found["contradictions"][0]} == {"0", "1"}
    assert sum(found["parts"].values()) == found["pictures"] == 152
    told = run_command("data", str(digits)).stdout
    assert "0/bad.png: not a picture" in told
    assert "0/copy.bmp" in told


def test_data_explains_why_no_study_can_start(here: Path, tmp_path: Path) -> None:
    out = run_command("data", str(write_digits(tmp_path / "few", classes=2, each=2)), "--json")
    assert out.returncode == 0
    assert "need one each" in json.loads(out.stdout)["problem"]


def test_plugins_are_listed_for_people_and_programs(here: Path) -> None:
    found = json.loads(run_command("plugins", "--json").stdout)
    names = {row["name"]: row for row in found["backbones"]}
    assert set(names) >= {"efficientnet_lite0", "resnet18", "small_cnn"}
    assert names["efficientnet_lite0"]["weights"]["installed"]
    assert "224 pixels, 1280 features" in run_command("plugins").stdout


@pytest.mark.in_make_faults
def test_all_plugins_are_built_and_described_in_full(here: Path) -> None:
    full = {row["name"]: row for row in json.loads(run_command("plugins", "--json", "--full").stdout)["backbones"]}
    assert full["resnet18"]["parameters"] == 11_176_512
    assert len(full["efficientnet_lite0"]["stages"]) == 9


def test_a_new_plugin_is_written_and_checked(here: Path) -> None:
    assert run_command("plugins", "new", "my_net", "--from-scratch").returncode == 0
    out = run_command("plugins", "check", "my_net", "--plugins", ".")
    assert out.returncode == 0, out.stderr
    assert all(line.startswith("yes ") for line in out.stdout.splitlines())
    (here / "my_net.py").write_text((here / "my_net.py").read_text().replace("features=128", "features=129"))
    out = run_command("plugins", "check", "my_net", "--plugins", ".")
    assert out.returncode == 1
    assert "returns shape (128,) per picture, not (129,)" in out.stderr


@pytest.mark.slow
def test_json_is_one_object_and_nothing_else_on_stdout(
    here: Path, digits: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (
        str(digits),
        "--study",
        "s",
        "--trials",
        "2",
        "--backbone",
        "quick_cnn",
        "--epochs",
        "2",
        "--device",
        "cpu",
    )
    out = run_command("search", *words, "--json")
    found = json.loads(out.stdout)
    assert capfd.readouterr().out == ""  # of native code and of child processes
    assert set(found) >= {
        *("study", "folder", "classes", "pictures", "trials", "best", "leaderboard", "test", "seconds"),
    }
    assert set(found["pictures"]) == {"train", "validation", "test", "skipped"}
    assert set(found["trials"]) == {"complete", "pruned", "failed", "total"}
    assert set(found["best"]) >= {"number", "value", "params", "checkpoint"}
    assert set(found["leaderboard"][0]) >= {"number", "state", "value", "params", "epochs", "ended", "seconds"}
    assert set(found["best"]["params"]) == {
        *("backbone", "depth", "pixels", "lr_low", "lr_high", "cycle", "augment", "class_weight"),
        *("optimizer", "batch_size", "weight_decay", "dropout", "label_smoothing"),
    }
    assert set(found["test"]) >= {
        *("n", "evaluations", "accuracy", "interval", "balanced_accuracy", "macro_f1", "log_loss"),
    }
    assert set(found["seconds"]) == {"read", "cache", "trials", "finals", "test", "other", "total"}
    assert "Plan: 2 trials" in out.stderr
    assert json.loads(run_command("status", "s", "--json").stdout) == found
    told = run_command("status", "s").stdout
    assert "Winner: trial" in told
    assert "95 % interval" in told
    again = json.loads(run_command("evaluate", "s", "--device", "cpu", "--json").stdout)
    assert again["test"]["evaluations"] == 2
    assert run_command("search", *words, "--quiet").stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ("search", "photos", "--metric", "best"),
        ("search", "photos", "--device", "tpu"),
        ("search", "photos", "--backbone", "resnet19"),
        ("search", "photos", "--epochs", "0"),
        ("search", "nowhere"),
        ("search", "empty"),
        ("search", "photos/a"),
        ("search", "photos", "--study", "running"),
        ("lr-find", "photos", "--backbone", "resnet19"),
        ("export", "running", "--format", "tflite"),
        ("export", "unknown"),
        ("evaluate", "unknown", "--on", "photos"),
        ("report", "unknown"),
    ],
)
def test_a_bad_option_and_a_study_in_use_are_refused_before_torch_is_imported(
    here: Path, words: tuple[str, ...]
) -> None:
    for folder in ("photos/a", "photos/b", "empty"):
        (here / folder).mkdir(parents=True)
    code = (
        "import sys; from autotune.cli.main import main; sys.argv[1:] = " + repr(list(words)) + "\n"
        "try: main()\n"
        "except SystemExit as leave: print(leave.code, 'torch' in sys.modules)"
    )
    with lock_study(here / "studies" / "running"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["1 False"], done
    assert len(done.stderr.strip().splitlines()) >= 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("300", 300), ("90s", 90), ("5m", 300), ("5min", 300), ("2h", 7200), ("1h30m", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "5 weeks", "-3", "3x"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a duration"):
        seconds_of(text)


def test_data_warns_of_classes_that_are_several_labels_and_of_few_test_pictures(digits: Path) -> None:
    (digits / "0").rename(digits / "zero|even")
    out = run_command("data", str(digits))
    text = " ".join((out.stdout + out.stderr).split())
    assert "1 class may be several labels of a picture (zero|even)" in text
    assert "Fewer than 10 test pictures in 3 of 3 classes" in text
    found = json.loads(run_command("data", str(digits), "--json").stdout)
    assert {name: sum(parts.values()) for name, parts in found["class_parts"].items()} == found["classes"]
