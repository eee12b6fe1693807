"""A dry run says what a search would do, and does nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_digits
from typer.testing import CliRunner

from autotune.backbones.registry import discover
from autotune.cli.app import app
from autotune.cli.console import PlainConsole
from autotune.data.split import read_manifest
from autotune.errors import StudyError
from autotune.search.candidates import select_backbones
from autotune.search.plan import build_context, choose_cuts
from autotune.search.settings import read_settings
from autotune.study import dry_run as dry_runs
from autotune.study import run
from autotune.study.dry_run import dry_run
from autotune.study.request import SearchRequest
from autotune.study.run import decode_pictures, read_pictures
from autotune.training.context import LoadedBackbones

BANKED: dict[str, Any] = {"backbone": ["efficientnet_lite0"], "depth": [0, 1], "epochs": 4}


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no worker and no network."""
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dry run starts no worker and downloads nothing")

    monkeypatch.setattr(run, "LocalEngine", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path / "cache"


def rehearsed(data: Path, trials: int = 10, name: str = "s", screen: PlainConsole | None = None, **more: Any) -> Any:
    request = SearchRequest(data=data, name=name, trials=trials, device="cpu", **more)
    return dry_run(request, screen or PlainConsole(quiet=True))


def test_it_leaves_nothing_behind_and_its_values_are_plain(here: Path, digits: Path, cold: Path) -> None:
    found = rehearsed(digits, flags=BANKED)
    assert json.loads(json.dumps(found)) == found
    assert list(here.iterdir()) == []
    assert not cold.exists()
    assert sum(found["pictures"].values()) == 150
    assert found["trials"] == {"asked": 10, "finished": 0, "left": 10}
    assert found["backbones"][0]["depths"] == [0, 1]
    assert found["disk"]["pixels"] == (150 - found["pictures"]["test"]) * 3 * 64 * 64
    assert found["seconds"] > 1
    assert found["operations"]["bank"] > 0 < found["operations"]["trials"]


def test_the_bank_it_tells_is_the_bank_that_there_will_be(
    here: Path, tmp_path: Path, cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_runs, "estimate_seconds", lambda *_: 1.0)  # it takes longer than all the rest
    digits = write_digits(tmp_path / "few", classes=2, each=15)
    told = rehearsed(digits, flags=BANKED)
    settings = read_settings(None, BANKED)
    parts, root = read_pictures(SearchRequest(data=digits), here / "s", settings, discover(), PlainConsole(quiet=True))
    chosen = select_backbones(settings, discover(), None, "cpu", parts.side, print)
    context = build_context(settings, parts, chosen, 1, choose_cuts(chosen, settings, parts, 10))
    decode_pictures(parts, root, chosen, PlainConsole(quiet=True))
    bank = LoadedBackbones(context).feature_cache("efficientnet_lite0", 64)
    bank.fill((*context.train.digests, *context.validation.digests), [0], lambda *_: None)
    bank.fill(context.train.digests, [1, 2, 3, 4], lambda *_: None)
    assert told["disk"]["bank"] == sum(file.stat().st_size for file in (cold / "banks").rglob("rows.bin"))
    assert told["disk"]["pixels"] == sum(file.stat().st_size for file in (cold / "pixels").rglob("rows.bin"))
    again = rehearsed(digits, flags=BANKED)
    assert again["banks"][0]["bytes_there"] == again["banks"][0]["bytes"] == told["disk"]["bank"]
    assert (again["disk"]["bank"], again["disk"]["pixels"], again["operations"]["bank"]) == (0, 0, 0)
    assert again["operations"]["trials"] == told["operations"]["trials"]


def test_a_download_is_announced_and_not_made(
    here: Path, digits: Path, cold: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rehearsed(digits, flags={"backbone": ["resnet18"]}, screen=PlainConsole())
    assert found["backbones"][0]["weights"] == {"at_hand": False, "megabytes": 45}
    assert "weights by download, 45 MB." in capsys.readouterr().out


def test_of_a_study_that_has_begun_it_tells_what_is_left(searched: Path, finished: Path) -> None:
    data, flags = searched.parents[1] / "digits3", {"epochs": 3, "backbone": ["small_cnn"]}
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    found = rehearsed(data, 6, flags=flags)
    assert found["begun"]
    assert found["trials"] == {"asked": 6, "finished": 4, "left": 2}
    done = rehearsed(data, 4, flags=flags)
    assert (done["trials"]["left"], done["tested"], done["seconds"]) == (0, True, 0)
    with pytest.raises(StudyError, match="epochs was 3, is 5"):
        rehearsed(data, 6, flags={**flags, "epochs": 5})
    assert {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()} == before
    assert (
        len(read_manifest(finished / "manifest.csv"))
        == sum(found["pictures"].values()) - found["pictures"]["set_aside"]
    )


def test_the_command_tells_people_and_programs(here: Path, digits: Path, cold: Path) -> None:
    words = ["search", str(digits), "--dry-run", "--backbones", "small_cnn", "--device", "cpu", "--trials", "7"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0
    for said in ("Plan: 7 trials", "T operations for the trials.", "Disk: ", "Time: about ", "dry run: no study"):
        assert said in told.stdout
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert found["trials"]["left"] == 7
    assert CliRunner().invoke(app, [*words, "--quiet"]).stdout == ""
    assert not (here / "studies").exists()
