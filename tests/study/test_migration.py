"""A study written by autotune 0.1.0 can be read, resumed, reported and exported by the current version."""

import shutil
from pathlib import Path

import pytest
from conftest import write_digits

from autotune.export.export import ExportRequest, export_trial
from autotune.report.report import write_report
from autotune.study.finals import race
from autotune.study.listener import StudyListener
from autotune.study.request import Resources, SearchRequest
from autotune.study.run import run_study
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import COMPLETE, PRUNED
from autotune.study.summary import study_status

MADE = Path(__file__).with_name("made_by_0.1.0")


@pytest.fixture
def old(here: Path) -> Path:
    """A copy of the old study, of digits that have moved to another folder."""
    write_digits(here / "digits3")
    return Path(shutil.copytree(MADE, here / "studies" / "before"))


def test_an_old_record_is_read(old: Path) -> None:
    found = study_status("before")
    assert found.n_trials == {COMPLETE: 5, PRUNED: 1, "failed": 0, "total": 6}
    assert (found.winner.number, found.winner.value) == (4, 1.0)
    assert (found.winner.params.optimizer, found.winner.params.depth) == ("sgd", 0)
    assert found.test
    assert (found.test.value, found.test.n, found.n_evaluations) == (1.0, 14, 1)
    assert found.probes[0].cache_seconds > 0
    with open_record(old) as record:
        facts, exports = record.facts(), record.exports()
        assert len(record.curve(4)) == 2
    assert facts.cuts == {("efficientnet_lite0", 64): (9,)}
    assert facts.first_trials_queued
    assert facts.pictures == {"train": 119, "validation": 17, "test": 14, "skipped": 0}
    assert [row.facts["table"][0]["verdict"] for row in exports] == ["verified"]


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_an_old_study_is_resumed_reported_and_exported(old: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "FINALS_SHARE", 0.0)
    before = study_status("before").leaderboard
    request = SearchRequest(data=here / "digits3", name="before", trials=7, device="cpu", flags={"pixels": [64]})
    found = run_study(request, StudyListener())
    assert len(found.leaderboard) == 7
    assert {row.number: row for row in before}.items() <= {row.number: row for row in found.leaderboard}.items()
    assert "before" in Path(write_report("before")["file"]).read_text()
    result = export_trial("before", ExportRequest(), Resources("cpu"), StudyListener())
    assert [file.is_verified for file in result.files] == [True]
