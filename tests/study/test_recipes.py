"""A study with a recipe: its first trial, which nothing prunes, and which may win."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from commands import run_command
from conftest import write_digits
from small_studies import search, without_time

from autotune.errors import ConfigError, StudyError
from autotune.export.export import ExportRequest, export_trial
from autotune.report.report import write_report
from autotune.report.tensorboard import TensorBoardListener
from autotune.search.settings import read_settings
from autotune.study.finals import finals, race
from autotune.study.listener import StudyListener
from autotune.study.reopen import reopen_trial
from autotune.study.reproduce import reproduction
from autotune.study.request import Resources
from autotune.study.storage.record import Record, open_record
from autotune.study.summary import study_status

HEAD = {"epochs": 2, "lr_low": 1e-3, "lr_high": 1e-2, "optimizer": "rmsprop"}
TAIL = {"epochs": 1, "depth": 2, "lr_low": 1e-4, "lr_high": 1e-3}
PRETRAINED: dict[str, Any] = {"backbone": ["efficientnet_lite0"], "pixels": [32], "depth": [0]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits", classes=3, each=40)


def with_recipe(*phases: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**PRETRAINED, "recipe": list(phases), **more}


@pytest.mark.slow
def test_a_recipe_is_the_first_trial_and_is_called_so(here: Path, photos: Path) -> None:
    flags = with_recipe(HEAD, TAIL, pruner="successive_halving")
    found = search(photos, 3, flags=flags, listener=TensorBoardListener())
    rows = {row["name"]: row for row in found["leaderboard"]}
    assert set(rows) == {"recipe", "1", "2"}
    assert (rows["recipe"]["number"], rows["recipe"]["state"], rows["recipe"]["epochs"]) == (0, "complete", 3)
    assert [phase["depth"] for phase in rows["recipe"]["params"]["phases"]] == [0, 2]
    assert "head only, rmsprop" in rows["recipe"]["words"]
    assert "; then last 2 of 9 stages unfrozen, adamw" in rows["recipe"]["words"]
    assert "recipe  " in run_command("status", "s", columns=200).stdout
    page = Path(write_report("s")["file"]).read_text()
    assert '<td class="n">recipe</td>' in page
    known = optuna.load_study(study_name="autotune", storage="sqlite:///studies/s/trials.db").get_trials()
    assert known[0].params == {}
    assert without_time(search(photos, 3, flags=flags)) == without_time(found)
    assert search(photos, 4, flags=flags)["trials"]["total"] == 4
    with pytest.raises(StudyError, match="recipe was"):
        search(photos, 5, flags=with_recipe(HEAD, pruner="successive_halving"))


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_a_recipe_may_win_and_its_phases_run_on_every_fold(
    here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "FINALS_SHARE", 1000.0)
    for limit in ("MOST_DIVERGENCE", "MOST_CHANGED"):
        monkeypatch.setattr(finals, limit, -1.0)  # an average is replaced by a refit
    found = search(photos, 1, flags=with_recipe({**HEAD, "hidden": 16}, TAIL))
    assert found["final"]["trial"] == 0
    assert "32 pixels, hidden layer of 16: head only" in found["best"]["words"]
    assert "the recipe" in study_status("s").winner.title
    record = Record(here / "studies" / "s" / "record.db")
    assert {row.epochs for row in record.folds()} == {3}
    record.close()
    exported = export_trial("s", ExportRequest(formats=("safetensors",)), Resources("cpu"), StudyListener())
    assert [file.is_verified for file in exported.files] == [True, True]
    card = (Path(exported.folder) / "card.md").read_text()
    assert "phase 2 | epochs 1, cycle_epochs 1, depth 2" in card


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_trials_of_other_backbones_than_the_recipes_are_reopened(here: Path, photos: Path) -> None:
    recipe = {"backbone": "quick_cnn", "epochs": 1, "lr_low": 1e-4, "lr_high": 1e-3}
    flags = {"backbone": ["efficientnet_lite0", "quick_cnn"], "pixels": [32], "recipe": [recipe], "final": "trial"}
    found = search(photos, 2, flags=flags)
    assert {row["params"]["backbone"] for row in found["leaderboard"]} == {"efficientnet_lite0", "quick_cnn"}
    with open_record(here / "studies" / "s") as record:
        for number in (None, *(row["number"] for row in found["leaderboard"])):
            one = reopen_trial(here / "studies" / "s", record, Resources("cpu"), StudyListener(), number)
            assert one.trained.net.params.backbone == one.trial.params.backbone
            assert one.settings.recipe


@pytest.mark.slow
def test_the_study_toml_that_reproduces_a_study_states_its_recipe(here: Path, photos: Path) -> None:
    flags = with_recipe(HEAD, TAIL)
    search(photos, 1, flags=flags)
    record = Record(here / "studies" / "s" / "record.db")
    file = here / "again.toml"
    file.write_text(reproduction(record.facts().settings, str(photos), "s", 1).toml)
    record.close()
    assert read_settings(file, {}).recipe == read_settings(None, flags).recipe
    assert search(photos, 1, config=file, flags=PRETRAINED)["trials"]["total"] == 1


@pytest.mark.parametrize(
    ("phases", "problem"),
    [
        ([{**HEAD, "depht": 1}], r"Phase 1 of the recipe has no setting named 'depht'"),
        ([HEAD, {"epochs": 1, "lr_low": 1e-4}], r"Phase 2 of the recipe has no lr_high"),
        ([{**HEAD, "epochs": 0}], r"In phase 1 of the recipe, epochs cannot be 0"),
        ([{**HEAD, "optimizer": "adm"}], r"optimizer cannot be 'adm'"),
        ([{**HEAD, "lr_low": 1.0}], r"lr_low \(1\) is more than lr_high \(0.01\)"),
        ([{**HEAD, "cycle_epochs": 3}], r"epochs \(2\) is not a multiple of cycle_epochs \(3\)"),
        ("head", r"recipe is not a list of tables"),
    ],
)
def test_an_invalid_recipe_is_refused_when_it_is_read(phases: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_settings(None, {"recipe": phases})


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (with_recipe({**TAIL, "depth": 10}), "Phase 1 of the recipe trains 10 stages of efficientnet_lite0"),
        (with_recipe({**HEAD, "backbone": "resnet18"}), "The recipe trains resnet18, which is not searched"),
        (with_recipe(HEAD, backbone=["efficientnet_lite0", "small_cnn"]), "does not say which backbone it trains"),
        (
            with_recipe({**HEAD, "backbone": "a"}, {**TAIL, "backbone": "b"}),
            "The phases of the recipe have different backbones: a, b",
        ),
        (with_recipe({**HEAD, "hidden": 8}, {**TAIL, "hidden": 9}), "hidden layers of different widths: 8, 9"),
        (with_recipe(TAIL, backbone=["small_cnn"]), "Phase 1 of the recipe trains 2 stages of small_cnn"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused_before_training(
    here: Path, photos: Path, flags: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        search(photos, 1, flags=flags)
    assert not (here / "studies" / "s" / "record.db").exists() or not study_has_trials()


def study_has_trials() -> bool:
    record = Record(Path("studies/s/record.db"))
    try:
        return bool(record.trials() or record.probes())
    finally:
        record.close()
