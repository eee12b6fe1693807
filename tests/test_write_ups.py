"""The studies of `studies/`: each study.toml runs, on few small pictures and for one epoch per phase."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import write_digits
from small_studies import search

from autotune.backbones.registry import discover
from autotune.search.candidates import select_backbones
from autotune.search.recipe import recipe_params
from autotune.search.settings import read_settings
from autotune.study.finals import race

STUDIES = Path(__file__).parent.parent / "studies"
WRITE_UPS = ("cats-dogs", "cifar10", "flowers", "hotdog", "produce")


def shortened(file: Path) -> dict[str, Any]:
    """Return the settings of a file, with one epoch per phase and with small pictures."""
    table = tomllib.loads(file.read_text())
    phases = [{**phase, "epochs": 1, "cycle_epochs": 1} for phase in table["recipe"]]
    return {**table, **table.pop("space"), "recipe": phases, "epochs": 1, "pixels": [32]}


def test_there_is_a_study_for_each_write_up() -> None:
    assert tuple(sorted(file.parent.name for file in STUDIES.glob("*/study.toml"))) == WRITE_UPS
    assert all((STUDIES / name / "README.md").is_file() for name in WRITE_UPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITE_UPS)
def test_a_write_up_runs_as_a_study(name: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "FINALS_SHARE", 0.0)  # no finals
    photos = write_digits(tmp_path / "digits", classes=2, each=30)
    settings = shortened(STUDIES / name / "study.toml")
    found = search(photos, 1, flags={**settings, "depth": 0, "final": "trial"})
    (row,) = found["leaderboard"]
    assert (row["name"], row["state"], row["epochs"]) == ("recipe", "complete", len(settings["recipe"]))
    assert found["test"]["n"] > 0


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*/*.toml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_recipe_of_a_write_up_fits_its_backbone(file: Path) -> None:
    settings = read_settings(file, {"depth": [0], "pixels": [64]})
    selection = select_backbones(settings, discover(), None, "cpu", 64, lambda _: None, download=False)
    params = recipe_params(settings, selection)
    assert params
    assert len(params.phases) == len(settings.recipe)
