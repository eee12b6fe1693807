"""A dry run plans a search and estimates its cost without running it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_command
from conftest import write_digits

from autotune.cli.live.console import PlainConsole
from autotune.data.split import read_manifest
from autotune.engines import local
from autotune.errors import StudyError
from autotune.search.candidates import select_backbones
from autotune.search.plan import build_context, make_plan
from autotune.study.dry_run import DryRun, dry_run
from autotune.study.prepare import decode_pictures, prepare
from autotune.study.request import SearchRequest
from autotune.training.context import LoadedBackbones

CACHED: dict[str, Any] = {"backbone": ["efficientnet_lite0"], "depth": [0, 1], "epochs": 4}


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, without workers and network."""
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dry run must not start a worker or download")

    monkeypatch.setattr(local, "LocalPlace", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path / "cache"


def asked(data: Path, trials: int = 10, **more: Any) -> SearchRequest:
    return SearchRequest(data=data, name="s", trials=trials, device="cpu", **more)


def planned(request: SearchRequest) -> DryRun:
    return dry_run(request, PlainConsole(quiet=True))


def test_a_dry_run_writes_nothing_and_returns_plain_values(here: Path, digits: Path, cold: Path) -> None:
    found = planned(asked(digits, flags=CACHED)).to_json()
    assert json.loads(json.dumps(found)) == found
    assert list(here.iterdir()) == []
    assert not cold.exists()
    assert sum(found["pictures"].values()) == 150
    assert found["trials"] == {"asked": 10, "finished": 0, "left": 10}
    assert found["backbones"][0]["depths"] == [0, 1]
    assert found["disk"]["pixels"] == (150 - found["pictures"]["test"]) * 3 * 64 * 64
    assert found["seconds"] > 1
    assert found["operations"]["features"] > 0 < found["operations"]["trials"]


def test_the_estimated_bytes_are_the_bytes_that_a_search_caches(here: Path, tmp_path: Path, cold: Path) -> None:
    digits = write_digits(tmp_path / "few", classes=2, each=15)
    request = asked(digits, flags=CACHED)
    first = planned(request)
    ready = prepare(request, PlainConsole(quiet=True), "cpu")
    selection = select_backbones(ready.settings, ready.registry, None, "cpu", ready.split.side, print)
    context = build_context(make_plan(ready.settings, ready.split, selection, 10))
    decode_pictures(ready.split, ready.root, selection, PlainConsole(quiet=True))
    cache = LoadedBackbones(context).feature_cache("efficientnet_lite0", 64)
    every = (*context.train.digests, *context.validation.digests)
    cache.fill({0: every, **dict.fromkeys((1, 2, 3, 4), context.train.digests)}, lambda *_: None)
    assert first.feature_bytes == sum(file.stat().st_size for file in (cold / "features").rglob("rows.bin"))
    assert first.pixel_bytes == sum(file.stat().st_size for file in (cold / "pixels").rglob("rows.bin"))
    again = planned(request)
    assert again.features[0].bytes_there == again.features[0].bytes == first.feature_bytes
    assert (again.feature_bytes, again.pixel_bytes, again.feature_operations) == (0, 0, 0)
    assert again.trial_operations == first.trial_operations


def test_a_dry_run_announces_downloads_without_starting_them(
    here: Path, digits: Path, cold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = dry_run(asked(digits, flags={"backbone": ["resnet18"]}), PlainConsole()).to_json()
    assert found["backbones"][0]["weights"] == {"installed": False, "megabytes": 45}
    assert "weights to be downloaded, 45 MB." in capsys.readouterr().out


def test_a_dry_run_of_a_started_study_counts_the_remaining_trials(searched: Path, finished: Path) -> None:
    data, flags = searched.parents[1] / "digits3", {"epochs": 3, "backbone": ["quick_cnn"]}
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    found = planned(asked(data, 6, flags=flags))
    assert found.has_started
    assert (found.n_trials, found.n_finished, found.n_left) == (6, 4, 2)
    done = planned(asked(data, 4, flags=flags))
    assert (done.n_left, done.tested, done.seconds) == (0, True, 0)
    with pytest.raises(StudyError, match="epochs was 3, is 5"):
        planned(asked(data, 6, flags={**flags, "epochs": 5}))
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before
    assert read_manifest(finished / "manifest.csv") == found.split.pictures


def test_the_command_prints_text_or_json(here: Path, digits: Path, cold: Path) -> None:
    words = ["search", str(digits), "--dry-run", "--backbone", "quick_cnn", "--device", "cpu", "--trials", "7"]
    result = run_command(*words)
    assert result.returncode == 0
    for expected in (
        "Plan: 7 trials",
        "T operations for the trials.",
        "Disk: ",
        "Time: about ",
        "Dry run: nothing was trained",
    ):
        assert expected in result.stdout
    found = json.loads(run_command(*words, "--json").stdout)
    assert found["trials"]["left"] == 7
    assert run_command(*words, "--quiet").stdout == ""
    assert not (here / "studies").exists()
