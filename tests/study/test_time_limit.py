"""The time limit of a study is kept, and ends with a model that has been tested."""

import time
from pathlib import Path
from typing import Any

import pytest
from conftest import write_digits
from small_studies import search

from autotune.report.report import write_report
from autotune.study.listener import StudyListener
from autotune.study.summary import study_status
from autotune.study.timing import limits

pytestmark = pytest.mark.slow
PRETRAINED: dict[str, Any] = {"backbone": ["efficientnet_lite0"], "pixels": [64], "depth": [0, 1], "epochs": 3}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits", classes=3, each=40)


class Lines(StudyListener):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.left: list[float] = []

    def say(self, text: str = "") -> None:
        self.lines.append(text)

    def estimated(self, seconds: float) -> None:
        self.left.append(seconds)


def test_without_time_to_train_the_linear_probe_is_the_model_and_the_next_run_goes_on(
    here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS_OVER", 120.0)
    seen = Lines()
    found = search(photos, 3, timeout=0.1, flags=PRETRAINED, listener=seen)
    assert "The time limit left no time to train a network: the linear probe is taken as it is." in seen.lines
    assert found["trials"]["total"] == 1
    assert found["best"]["value"] == found["probes"][0]["value"]
    assert found["final"]["reason"] == "the linear probe, because the time limit left no time to train"
    assert found["test"]["accuracy"] > 0.7
    assert Path(write_report("s")["file"]).is_file()
    whole = search(photos, 3, flags=PRETRAINED)
    assert whole["trials"]["total"] == 3
    assert whole["final"]["is_complete"]
    assert whole["test"]["evaluations"] == 2


@pytest.mark.in_make_faults
def test_without_time_to_train_the_recipe_waits_for_the_next_run(
    here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SECONDS_OVER", 120.0)
    flags = {**PRETRAINED, "recipe": [{"epochs": 1, "lr_low": 1e-3, "lr_high": 1e-2}], "final": "trial"}
    first = search(photos, 3, timeout=0.1, flags=flags)
    assert [row["name"] for row in first["leaderboard"]] == ["1"]
    whole = search(photos, 3, flags=flags)
    assert {row["name"] for row in whole["leaderboard"]} == {"recipe", "1", "2"}
    recipe = next(row for row in whole["leaderboard"] if row["name"] == "recipe")
    assert (recipe["epochs"], recipe["ended"]) == (1, "done")


@pytest.mark.in_make_faults
def test_the_time_limit_leaves_time_for_the_finals_and_the_test(here: Path, photos: Path) -> None:
    start = time.monotonic()
    search(photos, 1, "first", flags={"epochs": 2})
    limit = 15 + 2 * (time.monotonic() - start)  # seconds; most of a short search is the start of its worker
    seen = Lines()
    start = time.monotonic()
    found = search(photos, 500, timeout=limit, flags={"epochs": 2}, listener=seen)
    took = time.monotonic() - start
    assert 1 < found["trials"]["total"] < 500
    assert found["final"]["how"] == "refit"
    assert found["test"]["evaluations"] == 1
    assert took < limit + 15
    assert max(seen.left) <= limit
    assert seen.left[-1] < seen.left[0]


def test_a_time_limit_that_passes_while_pictures_are_read_is_an_error(
    here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.errors import StudyError
    from autotune.search import plan

    monkeypatch.setattr(limits, "SECONDS_OVER", 0.2)
    monkeypatch.setattr(plan, "pick_device", lambda _: time.sleep(60))
    with pytest.raises(StudyError, match="left no time for a trial"):
        search(photos, 3, timeout=0.1, flags=PRETRAINED)


def test_a_running_study_knows_when_it_ends(here: Path, photos: Path) -> None:
    class Status(StudyListener):
        ends: float | None = None

        def finished(self, *_: Any, **__: Any) -> None:
            run = study_status("s").running
            assert run
            self.ends = run.ends

    seen = Status()
    search(photos, 2, flags={**PRETRAINED, "final": "trial"}, listener=seen)
    assert seen.ends
    assert seen.ends > time.time() - 60
