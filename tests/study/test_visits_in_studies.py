"""Studies of pictures that are grouped by visit."""

from collections import defaultdict
from pathlib import Path

import pytest
from conftest import photos, write_digits
from small_studies import Lines, search

from autotune.data.split import read_manifest
from autotune.errors import StudyError
from autotune.report.report import write_report
from autotune.study.listener import StudyListener
from autotune.study.reopen import evaluate_again
from autotune.study.request import Resources

LITE = {"backbone": ["efficientnet_lite0"], "pixels": [64], "epochs": 1, "depth": [0], "final": "trial"}


@pytest.fixture
def bursts(tmp_path: Path) -> Path:
    """Digits with file names that show ten visits of five pictures per class."""
    folder = write_digits(tmp_path / "bursts")
    for inner in sorted(folder.iterdir()):
        for i, file in enumerate(sorted(inner.iterdir())):
            file.rename(file.with_name(f"burst_{i // 5:02d}_{i % 5}.png"))
    return folder


def test_a_study_of_visits_tests_on_other_visits_and_says_so(here: Path, bursts: Path) -> None:
    listener = Lines()
    found = search(bursts, 1, flags=LITE, listener=listener)
    assert "30 visits by file name; each is in one set only." in listener.lines
    assert found["visits"] == {"by": "name", "n": 30, "n_pictures": 150, "by_picture": [], "crossing": 0}
    parts = defaultdict(set)
    for picture in read_manifest(here / "studies" / "s" / "manifest.csv"):
        parts[picture.group].add(picture.part)
    assert len(parts) == 30
    assert all(len(some) == 1 for some in parts.values())
    n_visits = sum(some == {"test"} for some in parts.values())
    assert found["test"]["n_visits"] == n_visits
    assert found["scope"].startswith(f"The test pictures are of {n_visits} visits that no training picture is of.")
    (probe,) = found["probes"]
    assert 0 < probe["by_visit"] <= 1
    assert 0 < probe["by_picture"] <= 1
    assert "What a split by picture would have claimed" in found["scope"]
    assert found["scope"].split(" What")[0] in Path(write_report("s")["file"]).read_text()
    resumed = search(bursts, 2, flags=LITE)
    assert (resumed["visits"], resumed["probes"]) == (found["visits"], found["probes"])
    again = evaluate_again("s", Resources("cpu"), StudyListener()).to_json()["test"]
    assert again["evaluations"] > 1
    assert (again["n_visits"], again["value_interval"]) == (n_visits, resumed["test"]["value_interval"])


def test_a_study_is_not_resumed_with_another_grouping(here: Path, bursts: Path) -> None:
    search(bursts, 1)
    with pytest.raises(StudyError, match="group_by was auto, is none"):
        search(bursts, 2, flags={"group_by": "none"})


def test_a_study_without_visits_says_which_pictures_its_score_is_for(here: Path, digits: Path) -> None:
    found = search(digits, 1)
    assert (found["visits"]["n"], found["test"]["n_visits"]) == (0, 0)
    assert found["scope"].startswith("No visits are known, so the score is for pictures like these")
    assert found["scope"].endswith("autotune evaluate s --on LATER")


@pytest.mark.in_make_faults
def test_classes_that_look_like_one_scene_are_named_and_shown(here: Path) -> None:
    produce = photos("produce")
    folder = here / "some"
    for label in ("Lime", "Apple", "Carrots", "Potato"):
        (folder / label).mkdir(parents=True)
        for file in sorted((produce / label).iterdir()):
            (folder / label / file.name).symlink_to(file)
    listener = Lines()
    search(folder, 1, flags={**LITE, "pixels": [224]}, listener=listener)
    (line,) = [line for line in listener.lines if "look like one scene" in line]
    assert "of Lime's" in line
    page = Path(write_report("s")["file"]).read_text()
    assert "Pictures that look like one scene" in page


@pytest.mark.parametrize(
    "name",
    [
        "cats-dogs",
        pytest.param("cifar10", marks=pytest.mark.in_make_faults),
        "flowers",
        "hotdog",
        "produce",
        "produce-later",
    ],
)
def test_auto_groups_nothing_in_folders_that_show_no_visits(name: str) -> None:
    from autotune.data.catalog import read_catalog

    assert read_catalog(photos(name)).visits.n == 0
