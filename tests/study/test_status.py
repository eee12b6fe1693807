"""What `status` says of a study while it runs and afterwards."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_studies import search

from autotune.cli.live.console import PlainConsole
from autotune.cli.views.study import show_study
from autotune.errors import StudyError
from autotune.export.predict import load
from autotune.report.report import write_report
from autotune.study.listener import StudyListener
from autotune.study.reopen import evaluate_again
from autotune.study.request import Resources
from autotune.study.storage.lock import lock_study
from autotune.study.storage.rows import Running
from autotune.study.summary import Summary, study_status
from autotune.training.outcome import Epoch
from autotune.training.params import Params


class Watcher(StudyListener):
    """Asks for the status at every epoch and picture of the finals."""

    def __init__(self) -> None:
        self.seen: list[Summary] = []

    def epoch(self, number: int, row: Any) -> None:
        self.seen.append(study_status("s"))

    def progress(self, title: str) -> Any:
        def update(done: int, total: int) -> None:
            if title == "Test" or title.startswith("Finals"):
                self.seen.append(study_status("s"))

        return update


def shown(capsys: pytest.CaptureFixture[str], summary: Summary) -> str:
    capsys.readouterr()
    show_study(summary, PlainConsole())
    out = capsys.readouterr()
    return " ".join((out.out + out.err).split())


def test_a_running_study_says_what_it_does_and_has_no_winner_yet(
    here: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = Watcher()
    search(digits, 3, listener=watcher)
    runs = [one.running for one in watcher.seen]
    assert all(run and (run.process, run.asked) == (os.getpid(), 3) for run in runs)
    assert list(dict.fromkeys(run.doing for run in runs if run)) == ["trials", "finals", "test evaluation"]
    during = next(one for one in watcher.seen if one.best)
    text = shown(capsys, during)
    assert f"process {os.getpid()}" in text
    assert f"{during.n_trials['total']} of 3 trials done; about " in text
    assert "Best so far: trial" in text
    assert "Winner" not in text
    after = study_status("s")
    assert after.running is None
    assert after.to_json()["running"] is None
    assert "Winner: trial" in shown(capsys, after)
    stopped = shown(capsys, replace(after, final=None, test=None, asked=4))
    assert "Not running: 3 of 4 trials done." in stopped
    assert "Best so far: trial" in stopped
    assert "Winner" not in stopped


def test_the_next_command_asks_for_the_missing_trials_or_for_more(
    here: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(digits, 2)
    rest = "--study s --seed 0 --epochs 3 --backbone quick_cnn"
    assert f"More trials: autotune search {digits} --trials 50 {rest}" in shown(capsys, study_status("s"))
    with pytest.raises(KeyboardInterrupt):
        search(digits, 5, listener=Interrupted())
    assert f"The 3 missing trials: autotune search {digits} --trials 5 {rest}" in shown(capsys, study_status("s"))
    running = replace(study_status("s"), running=Running(1, "host", "2026-01-01T00:00", 5, "trials"))
    assert "autotune search" not in shown(capsys, running)


def test_a_status_without_a_test_of_the_current_model_counts_the_earlier_tests(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, replace(study_status("s"), test=None))
    assert "Not evaluated on the test set yet. Earlier models were, once." in text


class Interrupted(StudyListener):
    """Presses Ctrl-C when a trial starts."""

    def __init__(self, first: int = 0) -> None:
        self._first = first

    def started(self, number: int, params: Params, words: str, epochs: int, curve: Sequence[Epoch] = ()) -> None:
        if number >= self._first:
            raise KeyboardInterrupt


def test_the_test_set_is_kept_for_the_final_model(here: Path, digits: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(digits, 3, listener=Interrupted(first=1))
    with pytest.raises(StudyError, match=r"not finished \(1 of 3 trials\)"):
        evaluate_again("s", Resources("cpu"), StudyListener())
    assert study_status("s").n_evaluations == 0
    page = Path(write_report("s")["file"]).read_text(encoding="utf-8")
    assert "<span>--trials</span> <span>3</span>" in page  # the command continues the search
    said: list[str] = []
    load("s", Resources("cpu"), said.append)
    assert said == ["Study s has no final model yet: trial 0, the best so far, predicts."]
    search(digits, 3)
    assert evaluate_again("s", Resources("cpu"), StudyListener()).n_evaluations == 2


def test_the_parts_of_the_time_add_up_to_the_total(here: Path, digits: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(digits, 2, listener=Interrupted())
    first = study_status("s").seconds
    assert first.trials > first.other == pytest.approx(0, abs=0.5)  # it was interrupted in a trial
    found = search(digits, 2, workers=2)["seconds"]
    kinds = ("read", "trials", "finals", "test", "other")
    assert all(found[name] > 0 for name in kinds)
    assert sum(found[name] for name in kinds) == pytest.approx(found["total"])
    assert found["total"] > first.total


def test_a_locked_study_is_running_and_others_are_not(finished: Path) -> None:
    assert study_status("s").running is None
    with lock_study(finished):
        assert study_status("s").running is not None
