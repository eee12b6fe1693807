"""Small complete studies with real digits and real processes."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from commands import workers_of
from conftest import photos, write_digits
from PIL import Image
from safetensors.torch import save_file
from small_studies import QUICK, search, without_time

from autotune.backbones.registry import build_stages, discover
from autotune.cli.live.console import PlainConsole
from autotune.data import decode as decoding
from autotune.data import picture as pictures
from autotune.data.split import Split, read_manifest
from autotune.errors import AutotuneError, ConfigError, DataError, PluginError, StudyError
from autotune.files import cache_folder
from autotune.search import read_ahead
from autotune.search.candidates import select_backbones
from autotune.search.plan import build_context, make_plan
from autotune.search.settings import read_settings
from autotune.study import run
from autotune.study.driver import Driver
from autotune.study.listener import Progress, StudyListener
from autotune.study.reopen import evaluate_again
from autotune.study.request import Resources, SearchRequest
from autotune.study.run import run_study
from autotune.study.storage.lock import lock_study
from autotune.study.storage.record import Record
from autotune.study.summary import study_status

pytestmark = pytest.mark.slow
MIXED: dict[str, Any] = {"backbone": ["efficientnet_lite0", "quick_cnn"], "pixels": [32], "depth": [0, 1]}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "autotune", *words]


def write_settings(here: Path, text: str) -> None:
    (here / "studies" / "s").mkdir(parents=True)
    (here / "studies" / "s" / "study.toml").write_text(f"{text}\n")


def numbers(found: dict[str, Any]) -> list[int]:
    return sorted(row["number"] for row in found["leaderboard"])


def still_running(folder: Path) -> list[str]:
    """Return the processes whose working directory is this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def n_started(folder: Path) -> int:
    """Count the started trials by their logs: opening the record while it is created would create it twice."""
    return len(list((folder / "logs").glob("trial-*.log")))


def wait_until(condition: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)


def test_a_finished_study_is_only_printed_and_resumes_with_more_trials(here: Path, digits: Path) -> None:
    first = search(digits, 3, flags=MIXED)
    assert first["trials"] == {"complete": first["trials"]["complete"], "pruned": 3 - first["trials"]["complete"],
                               "failed": 0, "total": 3}  # fmt: skip
    assert first["test"]["evaluations"] == 1
    assert first["test"]["n"] == first["pictures"]["test"]
    assert Path(first["best"]["checkpoint"]).is_file()
    assert {row["params"]["depth"] for row in first["leaderboard"][:3]} >= {0, 1}
    again = search(digits, 3, flags=MIXED)
    assert without_time(again) == without_time(first)
    assert again["test"] == first["test"]
    more = search(digits, 5, flags=MIXED)
    assert numbers(more) == [0, 1, 2, 3, 4]
    changed = more["final"] != first["final"]
    assert more["test"]["evaluations"] == (2 if changed else 1)
    evaluated = evaluate_again("s", Resources("cpu"), StudyListener()).to_json()
    assert evaluated["test"]["evaluations"] == more["test"]["evaluations"] + 1
    assert evaluated["test"]["accuracy"] == more["test"]["accuracy"]
    assert json.loads(json.dumps(evaluated)) == evaluated
    assert (here / "studies" / "s" / ".gitignore").read_text() == "*\n!study.toml\n"
    logs = {file.name for file in (here / "studies" / "s" / "logs").iterdir()}
    assert "probe-efficientnet_lite0-32.log" in logs
    assert all(name.startswith(("probe-", "trial-", "final-")) for name in logs)


def test_one_seed_gives_the_same_trials_winner_and_test_score(here: Path, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", classes=10, each=15)
    one, two = (search(data, 4, name, flags=MIXED) for name in ("one", "two"))
    assert without_time(one) == without_time(two)
    assert one["best"]["number"] == two["best"]["number"]
    assert one["test"] == two["test"]


def test_workers_do_not_receive_or_cache_test_pictures(
    here: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    search(
        digits, 1, flags={"backbone": ["efficientnet_lite0"], "seed": 2, "final": "trial"}
    )  # a seed that moves no picture
    pictures = read_manifest(here / "studies" / "s" / "manifest.csv")
    settings = read_settings(None, QUICK)
    parts = Split(("0", "1", "2"), pictures, (), {})
    chosen = select_backbones(settings, discover(), None, "cpu", 8, print)
    sent = pickle.dumps(build_context(make_plan(settings, parts, chosen)))
    test = parts.part("test")
    assert len(test) >= 5
    assert all(p.digest.encode() in sent for p in parts.part("train"))
    assert not any(p.digest.encode() in sent or p.path.encode() in sent for p in test)
    stores = [file.parent for file in cache_folder().rglob("keys.bin")]
    assert stores
    for place in stores:
        keys = (place / "keys.bin").read_bytes()
        assert not any(bytes.fromhex(p.digest) in keys for p in test)


@pytest.mark.parametrize("guess", [None, pytest.param(500, marks=pytest.mark.in_make_faults)])
def test_pictures_are_decoded_once_and_again_only_for_the_test_evaluation(
    here: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guess: int | None
) -> None:
    """If the size of the pictures is guessed incorrectly, the pictures that trials use are decoded a second time."""
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    seen: list[str] = []
    real = decoding.decode_image

    def decode(path: Path, *formats: Any) -> Any:
        seen.append(Path(path).relative_to(digits).as_posix())
        return real(path, *formats)

    monkeypatch.setattr(pictures, "decode_image", decode)
    if guess:
        monkeypatch.setattr(read_ahead, "likely_side", lambda *_: guess)
    flags = {"backbone": ["efficientnet_lite0"], "epochs": 1}
    search(digits, 1, flags=flags)
    times = Counter(seen)
    for picture in read_manifest(here / "studies" / "s" / "manifest.csv"):
        again = picture.part == "test"
        assert times[picture.path] == 1 + again + (guess is not None and picture.part != "test"), picture
    seen.clear()
    search(digits, 2, flags=flags)
    assert not [
        p for p in read_manifest(here / "studies" / "s" / "manifest.csv") if p.part != "test" and p.path in seen
    ]


def test_workers_open_no_picture_files(here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures are moved away while the trials run and moved back for the test evaluation."""
    hidden = digits.with_name("hidden")
    real = Driver.run

    def run(self: Any, n_trials: int) -> None:
        digits.rename(hidden)
        real(self, n_trials)
        hidden.rename(digits)

    monkeypatch.setattr(Driver, "run", run)
    found = search(digits, 2)
    assert found["trials"]["failed"] == 0
    assert found["test"]["n"] > 0


@pytest.mark.in_make_faults
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="searches /proc for remaining processes")
def test_kill_9_of_driver_and_worker_loses_nothing(here: Path, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "digits", classes=3, each=60)
    epochs = 20  # enough that a trial can be killed in its middle
    write_settings(here, 'final = "trial"')
    words = command(
        *("search", str(data), "--study", "s", "--backbone", "quick_cnn", "--epochs", str(epochs), "--device", "cpu"),
        *("--trials", "3", "--json"),
    )
    record = here / "studies" / "s" / "record.db"

    def rows() -> int:
        return len(Record(record).trials()) if record.is_file() else 0

    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait_until(rows)
    wait_until((here / "studies" / "s" / "logs" / "trial-0001.log").is_file)
    time.sleep(0.3)  # in the middle of it
    before = {row.number: row for row in Record(record).trials()}
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not still_running(here), 10)

    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: rows() > len(before))
    workers_of(driver.pid)[0].kill()
    out, err = driver.communicate(timeout=120)
    found = json.loads(out)
    assert numbers(found) == [0, 1, 2]
    assert found["trials"]["failed"] == 0
    assert b"restarting the trial" in err
    after = {row.number: row for row in Record(record).trials()}
    assert all(after[number] == row for number, row in before.items())
    assert found["test"]["evaluations"] == 1
    wait_until(lambda: not still_running(here), 10)
    uninterrupted = search(data, 3, "uninterrupted", flags={"epochs": epochs, "final": "trial"})
    assert without_time(uninterrupted) == without_time(found)


def test_ctrl_c_exits_with_130_and_the_same_command_resumes(here: Path, digits: Path) -> None:
    write_settings(here, 'final = "trial"')
    words = ("search", str(digits), "--study", "s", "--backbone", "quick_cnn", "--epochs", "9", "--device", "cpu")
    driver = subprocess.Popen(command(*words, "--trials", "40"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    record = here / "studies" / "s" / "record.db"
    wait_until(lambda: n_started(record.parent) >= 3)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert b"Traceback" not in err
    assert b"run the same command again to resume" in err
    done = len(Record(record).trials())
    assert Record(record).evaluations() == []
    found = search(digits, done + 1, flags={"epochs": 9, "final": "trial"})
    assert numbers(found) == list(range(done + 1))


def test_the_sampler_gets_the_score_minus_a_penalty(here: Path, digits: Path) -> None:
    found = search(digits, 3)
    scores = {row["number"]: row["value"] for row in found["leaderboard"]}
    study = optuna.load_study(study_name="autotune", storage="sqlite:///studies/s/trials.db")
    lost = [scores[trial.number] - trial.value for trial in study.get_trials()]
    assert len(lost) == 3
    assert all(0 < one < 0.2 for one in lost)


def test_two_workers_share_a_study(here: Path, digits: Path) -> None:
    found = search(digits, 5, workers=2)
    assert numbers(found) == [0, 1, 2, 3, 4]
    assert found["trials"]["failed"] == 0


def test_a_study_in_use_cannot_be_run(here: Path, digits: Path) -> None:
    with lock_study(here / "studies" / "s"), pytest.raises(StudyError, match="in use by another process"):
        search(digits)


def test_a_study_in_use_is_refused_before_any_picture_is_read(here: Path, digits: Path) -> None:
    class Titles(StudyListener):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def progress(self, title: str) -> Progress:
            self.seen.append(title)
            return super().progress(title)

    listener = Titles()
    with lock_study(here / "studies" / "s"), pytest.raises(StudyError, match="in use by another process"):
        run_study(SearchRequest(data=digits, name="s"), listener)
    assert listener.seen == []


def test_changed_settings_raise_an_error_that_lists_them(here: Path, digits: Path) -> None:
    search(digits, 1)
    with pytest.raises(StudyError, match=r"epochs was 3, is 4; .*seed was 0, is 1"):
        search(digits, 1, flags={"epochs": 4, "seed": 1})


def test_a_changed_folder_requires_a_new_study_that_keeps_the_split(here: Path, digits: Path) -> None:
    search(digits, 1)
    old = {p.path: p.part for p in read_manifest(here / "studies" / "s" / "manifest.csv")}
    write_digits(digits, each=60)
    with pytest.raises(StudyError, match="0 missing or modified, 30 new") as error:
        search(digits, 1)
    assert "--after s" in error.value.fix
    search(digits, 1, "new", manifest=here / "studies" / "s" / "manifest.csv", flags={"seed": 5})
    new = {p.path: p.part for p in read_manifest(here / "studies" / "new" / "manifest.csv")}
    assert old.items() <= new.items()
    assert len(new) == len(old) + 30


def test_a_modified_test_picture_raises_an_error(here: Path, digits: Path) -> None:
    search(digits, 1)
    picture = next(p for p in read_manifest(here / "studies" / "s" / "manifest.csv") if p.part == "test")
    Image.new("L", (8, 8), 77).save(digits / picture.path)
    with pytest.raises(DataError, match="no longer matches the manifest"):
        evaluate_again("s", Resources("cpu"), PlainConsole(quiet=True))


FAILING = '''"""Failing: a network that raises an error in training."""

import torch
from torch import nn

from autotune import backbone


class Sometimes(nn.Linear):
    def forward(self, x):
        if self.training and {condition}:
            raise RuntimeError("out of luck")
        return super().forward(x)


@backbone(pixels=8, features=8, from_scratch=True)
def failing(pretrained):
    return nn.Sequential(nn.Sequential(nn.Flatten(1), Sometimes(192, 8)))
'''


def test_a_failed_trial_is_recorded_and_the_study_continues(here: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    condition = "len(x) == 64"  # only trials with the larger batch
    (tmp_path / "plugins" / "failing.py").write_text(FAILING.format(condition=condition))
    found = search(digits, 6, plugins=(tmp_path / "plugins",), flags={"backbone": ["failing"], "batch_size": [32, 64]})
    failed = [row for row in found["leaderboard"] if row["state"] == "failed"]
    assert failed
    assert {row["params"]["batch_size"] for row in failed} == {64}
    assert found["trials"]["complete"] + found["trials"]["pruned"] == 6 - len(failed)
    row = Record(here / "studies" / "s" / "record.db").trial(failed[0]["number"])
    trace = (row and row.trace) or ""
    assert "Traceback" in trace
    assert "RuntimeError: out of luck" in trace
    assert "out of luck" in (here / "studies" / "s" / "logs" / f"trial-{failed[0]['number']:04d}.log").read_text()


def test_five_failures_in_a_row_stop_the_study(here: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "failing.py").write_text(FAILING.format(condition="True"))
    with pytest.raises(StudyError, match="5 trials in a row have failed, the last with RuntimeError: out of luck"):
        search(digits, 20, plugins=(tmp_path / "plugins",), flags={"backbone": ["failing"]})
    assert study_status("s").n_trials == {"complete": 0, "pruned": 0, "failed": 5, "total": 5}


def test_a_trial_whose_worker_always_dies_fails(here: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    text = FAILING.format(condition="len(x) == 64").replace(
        'raise RuntimeError("out of luck")', "__import__('os')._exit(9)"
    )
    (tmp_path / "plugins" / "failing.py").write_text(text)
    flags = {"backbone": ["failing"], "batch_size": [64]}
    (tmp_path / "study.toml").write_text("[space]\nbatch_size = [32, 64]\n")
    found = search(digits, 3, plugins=(tmp_path / "plugins",), flags={**flags, "batch_size": [32, 64]})
    states = {row["params"]["batch_size"]: row["state"] for row in found["leaderboard"]}
    assert states[64] == "failed"
    assert states[32] in ("complete", "pruned")


@pytest.mark.parametrize(
    ("more", "kind", "problem"),
    [
        ({"flags": {"backbone": ["resnet19"]}}, PluginError, "No backbone named 'resnet19'"),
        ({"flags": {"metric": "acuracy"}}, ConfigError, "metric cannot be 'acuracy'"),
        ({"flags": {"pixels": ["wide"]}}, ConfigError, "pixels cannot be 'wide'"),
        ({"device": "cuda:7"}, ConfigError, "Device 'cuda:7' is not available"),
        ({"device": "cpu:x"}, ConfigError, "Device 'cpu:x' is not available"),
        ({"config": Path(".")}, ConfigError, "cannot be read"),
        ({"manifest": Path(".")}, StudyError, "not a manifest"),
        ({"config": Path("none.toml")}, ConfigError, "Configuration file none.toml does not exist"),
        ({"name": "../x"}, StudyError, "cannot be named"),
        ({"name": "cat or dog?"}, StudyError, "cannot be named"),
        ({"plugins": (Path("nowhere"),)}, PluginError, "Plugin folder nowhere does not exist"),
        ({"manifest": Path("none.csv")}, StudyError, "Manifest none.csv does not exist"),
    ],
)
def test_invalid_input_leaves_no_files(
    here: Path, digits: Path, more: dict[str, Any], kind: type[AutotuneError], problem: str
) -> None:
    if "device" in more:
        more = dict(more)
        with pytest.raises(kind, match=problem):
            run_study(
                SearchRequest(data=digits, name="s", flags=QUICK, device=more["device"]), PlainConsole(quiet=True)
            )
    else:
        with pytest.raises(kind, match=problem):
            search(digits, **more)
    assert not (here / "studies").exists()


def test_incompatible_weights_raise_an_error_before_the_first_trial(here: Path, digits: Path, tmp_path: Path) -> None:
    import torch

    torch.save({"x": torch.zeros(1)}, tmp_path / "resnet18.pth")
    with pytest.raises(AutotuneError, match="of the backbone's 100 found"):
        search(digits, weights=tmp_path, flags={"backbone": ["resnet18"]})


@pytest.mark.in_make_faults
def test_a_study_cannot_be_resumed_with_other_weights(here: Path, digits: Path, tmp_path: Path) -> None:
    import torch
    from torchvision.models import resnet18

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        torch.save(resnet18().state_dict(), tmp_path / name / "resnet18.pth")
    flags = {"backbone": ["resnet18"], "depth": [0], "final": "trial"}
    search(digits, 1, weights=tmp_path / "one", flags=flags)
    with pytest.raises(StudyError, match=r"resnet18 .* is not the one"):
        search(digits, 2, weights=tmp_path / "two", flags=flags)
    with pytest.raises(StudyError, match=r"resnet18 .* is not the one"):
        evaluate_again("s", Resources("cpu", tmp_path / "two"), PlainConsole(quiet=True))
    assert search(digits, 2, weights=tmp_path / "one", flags=flags)["trials"]["total"] == 2


def test_a_failed_start_does_not_reserve_the_name(here: Path, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(AutotuneError, match="contains no weights"):
        search(digits, 1, weights=tmp_path, flags={"epochs": 2})
    assert search(digits, 1, flags={"epochs": 1, "seed": 3})["trials"]["total"] == 1


def test_the_study_toml_is_read_and_the_folder_of_another_config_is_not_written_to(
    here: Path, digits: Path, tmp_path: Path
) -> None:
    write_settings(here, "[space]\noptimizer = 'sgd'")
    own = search(digits, 2)
    assert {row["params"]["optimizer"] for row in own["leaderboard"]} == {"sgd"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "study.toml").write_text("[space]\noptimizer = 'adam'\n")
    other = search(digits, 1, "t", config=elsewhere / "study.toml")
    assert {row["params"]["optimizer"] for row in other["leaderboard"]} == {"adam"}
    assert [file.name for file in elsewhere.iterdir()] == ["study.toml"]


def test_class_weights_are_searched_if_classes_are_imbalanced(here: Path, tmp_path: Path) -> None:
    data = write_digits(tmp_path / "uneven", classes=2, each=80)
    for file in sorted((data / "1").iterdir())[25:]:
        file.unlink()
    found = search(data, 3, flags={"metric": "balanced_accuracy"})
    assert len({row["params"]["class_weight"] for row in found["leaderboard"]}) > 1
    assert found["test"]["value"] == found["test"]["balanced_accuracy"]


def test_a_given_test_set_is_the_one_evaluated(here: Path, tmp_path: Path) -> None:
    root = tmp_path / "parted"
    write_digits(root / "train", each=60)
    write_digits(root / "test", each=11, first=60)
    found = search(root, 1)
    assert found["pictures"]["test"] == found["test"]["n"] == 33


def test_a_study_of_real_photos_completes(here: Path) -> None:
    found = search(
        photos("flowers"),
        2,
        flags={"backbone": ["efficientnet_lite0"], "pixels": [64], "depth": [0, 1], "augment": [0]},
    )
    assert found["trials"]["total"] == 2
    assert found["test"]["accuracy"] > 0.5


@pytest.mark.in_make_faults
def test_of_many_backbones_the_four_with_the_best_probes_are_searched(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_digits(here / "data")
    names = [f"timm:test_{kind}" for kind in ("resnet", "vit", "convnext", "byobnet", "efficientnet")]
    weights = here / "weights"
    weights.mkdir()
    for number, name in enumerate(names):
        torch.manual_seed(number)
        state = build_stages(discover().find(name), pretrained=False).state_dict()
        save_file(state, weights / f"{name.replace(':', '-')}.safetensors")
    flags = {"backbone": [*names, "small_cnn"], "depth": [0], "pixels": [32], "epochs": 1, "final": "trial"}
    found = search(data, trials=1, weights=weights, flags=flags)
    scores = [row["backbone"] for row in found["probes"]]  # best first
    assert set(scores) == set(names)
    (left_out,) = found["left_out"].items()
    assert left_out[0] == scores[-1]
    assert "is not among the best 4" in left_out[1]
    again = search(data, trials=2, weights=weights, flags=flags)
    assert again["left_out"] == found["left_out"]
    monkeypatch.setattr(run, "MOST_PRETRAINED", 1)  # as if an earlier version had started the study with more
    more = search(data, trials=4, weights=weights, flags=flags)
    assert more["trials"]["total"] == 4
    assert more["left_out"] == found["left_out"]
