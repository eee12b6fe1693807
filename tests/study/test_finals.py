"""The finals of small real studies: folds, race, final model, interruptions."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import write_digits
from small_studies import search

from autotune.report.report import write_report
from autotune.study import run
from autotune.study.finals import finals, race
from autotune.study.listener import StudyListener
from autotune.study.reopen import reopen_trial
from autotune.study.request import Resources
from autotune.study.storage.record import Record
from autotune.study.storage.rows import COMPLETE, FAILED, FoldRow, TrialRow
from autotune.study.summary import study_status
from autotune.study.timing.limits import TimeLimits
from autotune.training.context import WHOLE_POOL

pytestmark = pytest.mark.slow
PRETRAINED: dict[str, Any] = {"backbone": ["efficientnet_lite0"], "pixels": [32], "depth": [0, 1], "epochs": 2,
                              "optimizer": ["adamw"], "lr_high": [1e-3]}  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits", classes=3, each=30)


@pytest.fixture(autouse=True)
def permissive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow finals after few trials, and averages of networks that were trained for few epochs."""
    monkeypatch.setattr(race, "FINALS_SHARE", 100.0)
    monkeypatch.setattr(finals, "MOST_DIVERGENCE", 1.0)
    monkeypatch.setattr(finals, "MOST_CHANGED", 1.0)


def folds(name: str = "s") -> list[FoldRow]:
    record = Record(Path("studies") / name / "record.db")
    try:
        return record.folds()
    finally:
        record.close()


def over_at_once(*given: Any) -> finals.Finals:
    """Return the finals of a study whose time is over."""
    engine, record, checkpoints, plan, context, listener, planner, _, keeper = given
    over = TimeLimits(engine, time.monotonic(), None)
    return finals.Finals(engine, record, checkpoints, plan, context, listener, planner, over, keeper)


def without_seconds(found: dict[str, Any]) -> dict[str, Any]:
    return {"finals": found["finals"], "final": found["final"], "test": found["test"]}


def assert_average_of(checkpoint: str, members: list[str | None], n: int) -> None:
    """Check that the weights of a network are the mean of those of n others."""
    soup, *states = (safetensors.torch.load_file(Path("studies/s", str(one))) for one in [checkpoint, *members])
    assert len(states) == n
    for name, value in soup.items():
        if value.is_floating_point():
            mean = torch.stack([state[name].double() for state in states]).mean(0)
            assert torch.allclose(value.double(), mean, atol=1e-6)


def test_finalists_race_on_other_folds_and_the_winners_networks_are_averaged(here: Path, photos: Path) -> None:
    found = search(photos, 5, flags=PRETRAINED)
    final, finalists = found["final"], found["finals"]
    assert [one["won"] for one in finalists] == [True, False, False, False]
    assert [len(one["folds"]) for one in finalists] == [4, 4, 1, 1]
    assert all(fold["fold"] != 0 for one in finalists for fold in one["folds"])
    is_close = finalists[1]["mean"] > finalists[0]["mean"]
    assert not is_close or finalists[0]["trial"] == 1  # the reference: the only warm start with unfrozen stages
    low, high = finalists[1]["behind"]
    assert low <= finalists[0]["mean"] - finalists[1]["mean"] <= high
    assert (final["how"], final["trial"], final["folds"]) == ("soup", finalists[0]["trial"], [0, 1, 2, 3, 4])
    assert final["n"] == found["pictures"]["train"] + found["pictures"]["validation"]
    assert final["has_whole"]
    assert_average_of(final["checkpoint"], [row.checkpoint for row in folds() if row.trial == final["trial"]], 6)
    assert found["test"]["trial"] == final["trial"]
    assert found["test"]["evaluations"] == 1
    again = search(photos, 5, flags=PRETRAINED)
    assert without_seconds(again) == without_seconds(found)


@pytest.mark.in_make_faults
def test_more_trials_train_only_the_missing_folds_and_a_new_final_model_is_evaluated_again(
    here: Path, photos: Path
) -> None:
    first = search(photos, 2, flags=PRETRAINED)
    before = {(row.trial, row.fold): row.seconds for row in folds()}
    more = search(photos, 4, flags=PRETRAINED)
    after = {(row.trial, row.fold): row.seconds for row in folds()}
    assert before.items() <= after.items()
    changed = more["final"]["trial"] != first["final"]["trial"]
    assert more["test"]["evaluations"] == 1 + changed


def test_networks_from_scratch_are_refitted_on_the_whole_pool(here: Path, photos: Path) -> None:
    found = search(photos, 2)
    assert found["final"]["how"] == "refit"
    assert found["final"]["folds"] == [1, 2, 3, 4]
    assert [row.fold for row in folds() if row.trial == found["final"]["trial"]] == [WHOLE_POOL, 1, 2, 3, 4]


@pytest.mark.in_make_faults
def test_the_winner_of_a_duel_is_averaged_only_if_all_its_folds_are_affordable(
    here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def duel(first: int, second: int) -> dict[str, Any]:
        def planned(planner: race.RacePlanner, complete: list[TrialRow], *others: Any, **more: Any) -> race.Race | None:
            rows = {row.number: row for row in complete}
            return race.Race((rows[first], rows[second]), 0, None) if len(rows) == 2 else None

        monkeypatch.setattr(race.RacePlanner, "race", planned)
        return search(photos, 2, f"{first}-{second}", flags=PRETRAINED)

    both = [duel(0, 1), duel(1, 0)]
    assert both[0]["finals"] == both[1]["finals"]
    assert [len(one["folds"]) for one in both[0]["finals"]] == [1, 1]
    winner = both[0]["final"]["trial"]
    averaged, refitted = (found["final"] for found in (both if winner == 0 else reversed(both)))
    assert (averaged["how"], averaged["trial"], averaged["folds"]) == ("soup", winner, [0, 1, 2, 3, 4])
    assert (refitted["how"], refitted["trial"], refitted["folds"]) == ("refit", winner, [1])
    assert "a network for each fold would take too long" in refitted["reason"]
    assert averaged["is_duel"]
    assert refitted["is_duel"]
    page = Path(write_report("0-1")["file"]).read_text()
    assert "So it and the best other trial were trained again on all folds but one" in page
    assert "on that fold" in page


@pytest.mark.in_make_faults
def test_an_average_that_predicts_otherwise_is_replaced_by_a_refit(
    here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finals, "MOST_DIVERGENCE", -1.0)
    found = search(photos, 2, flags=PRETRAINED)
    assert found["final"]["how"] == "refit"
    assert "does not predict as they do" in found["final"]["reason"]


@pytest.mark.in_make_faults
def test_the_setting_final_decides_how_the_model_is_made(here: Path, photos: Path) -> None:
    refit = search(photos, 2, "refit", flags={**PRETRAINED, "final": "refit"})
    assert (refit["final"]["how"], len(refit["finals"])) == ("refit", 2)
    trial = search(photos, 2, "trial", flags={**PRETRAINED, "final": "trial"})
    assert (trial["final"]["how"], trial["finals"]) == ("trial", [])
    assert trial["final"]["checkpoint"] == trial["best"]["checkpoint"]


def test_a_study_whose_finals_cost_too_much_refits_its_best_trial(
    here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "FINALS_SHARE", 0.0)
    found = search(photos, 2, flags={**PRETRAINED, "depth": [1]})
    assert (found["final"]["how"], found["final"]["trial"], found["finals"]) == ("refit", found["best"]["number"], [])


@pytest.mark.in_make_faults
def test_a_finalist_that_fails_on_a_fold_is_out_of_the_race(here: Path, photos: Path) -> None:
    """Its failure is planted in the record of a study without finals."""
    first = search(photos, 3, flags={**PRETRAINED, "final": "trial"})
    best = first["best"]["number"]
    record = Record(here / "studies" / "s" / "record.db")
    record.keep_fold(FoldRow(best, 1, FAILED, error="training diverged"))
    record.close()
    found = search(photos, 4, flags=PRETRAINED)
    assert best not in {one["trial"] for one in found["finals"]}
    assert found["final"]["trial"] != best


@pytest.mark.in_make_faults
def test_the_time_limit_ends_the_finals_with_the_folds_that_are_complete(
    here: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as late:
        late.setattr(run, "Finals", over_at_once)
        found = search(photos, 2, flags=PRETRAINED)
    assert found["final"]["how"] == "trial"
    assert not found["final"]["is_complete"]
    whole = search(photos, 2, flags=PRETRAINED)
    assert whole["final"]["is_complete"]
    assert whole["final"]["how"] == "soup"
    assert whole["test"]["evaluations"] == 2


def test_the_final_model_is_the_one_that_is_restored(here: Path, photos: Path) -> None:
    found = search(photos, 2, flags=PRETRAINED)
    folder = here / "studies" / "s"
    record = Record(folder / "record.db")
    final = reopen_trial(folder, record, Resources("cpu"), StudyListener())
    own = reopen_trial(folder, record, Resources("cpu"), StudyListener(), found["final"]["trial"])
    assert (final.how, own.how) == ("soup", "trial")
    assert final.held_out
    assert len(final.held_out.pictures) == found["final"]["n"]
    assert final.test
    assert own.test is None
    record.close()


@pytest.mark.in_make_faults
def test_finals_killed_in_the_middle_end_as_without_the_interruption(here: Path, photos: Path) -> None:
    whole = search(photos, 2, "whole", flags=PRETRAINED)
    script = here / "killed.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from pathlib import Path\n"
        "from small_studies import search\n"
        "from autotune.study.finals import finals, race\n"
        "race.FINALS_SHARE, finals.MOST_DIVERGENCE, finals.MOST_CHANGED = 100.0, 1.0, 1.0\n"
        "if __name__ == '__main__':\n"
        f"    search(Path({str(photos)!r}), 2, 'killed', flags={PRETRAINED!r})\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], cwd=here)
    checkpoints = here / "studies" / "killed" / "checkpoints"
    end = time.monotonic() + 120
    while len(list(checkpoints.glob("fold-*.logits.safetensors"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert study_status("killed").final is None
    resumed = search(photos, 2, "killed", flags=PRETRAINED)
    for found in (resumed, whole):
        found["final"].pop("checkpoint")
    assert without_seconds(resumed) == without_seconds(whole)
    assert {row.state for row in folds("killed")} == {COMPLETE}
