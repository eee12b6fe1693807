"""The finals in the report of small real studies."""

import contextlib
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from conftest import write_digits
from small_studies import search

from autotune.cli.live.console import PlainConsole
from autotune.data.catalog import read_catalog
from autotune.data.split import MANIFEST, TEST, VALIDATION, read_manifest
from autotune.errors import StudyError
from autotune.export.bundle import CARD
from autotune.export.export import ExportRequest, export_trial
from autotune.report.finals import is_tie
from autotune.report.label_issues import find_label_issues_in_finals
from autotune.report.report import write_report
from autotune.study.finals import finals, race
from autotune.study.request import Resources
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import REFIT, Final, Finalist, FoldScore
from autotune.study.summary import study_status

OLD = Path(__file__).parents[1] / "study" / "made_by_0.1.0"
NONE = "\N{EN DASH}"
FLAGS: dict[str, Any] = {"backbone": ["efficientnet_lite0"], "pixels": [32], "depth": [0, 1], "epochs": 3,
                         "optimizer": ["adamw"], "lr_high": [1e-3]}  # fmt: skip


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studies folder of a study with finals, which are allowed after few trials. Some labels are wrong."""
    folder = tmp_path_factory.mktemp("raced")
    photos = write_digits(folder / "photos", classes=3, each=40)
    for file in sorted((photos / "0").glob("*.png"))[:4]:
        file.rename(photos / "1" / f"wrong-{file.name}")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(race, "FINALS_SHARE", 100.0)
        patch.setattr(finals, "MOST_CHANGED", 1.0)
        patch.setattr(finals, "MOST_DIVERGENCE", 1.0)  # the networks are trained for few epochs
        search(photos, 5, flags=FLAGS)
    return folder / "studies"


@pytest.fixture
def study(raced: Path, here: Path) -> Path:
    """A copy that a test may change, in the current folder."""
    return Path(shutil.copytree(raced, here / "studies")) / "s"


def sections(name: str = "s") -> dict[str, str]:
    """Return the HTML of each section of a report by its id."""
    text = Path(write_report(name)["file"]).read_text(encoding="utf-8")
    return dict(re.findall(r'<section id="([\w-]+)">(.*?)</section>', text, re.DOTALL))


def cells(html: str) -> list[list[str]]:
    """Return the text of every cell of the first table, by row."""
    table = html[html.index("<table") : html.index("</table>")].replace("\xa0", " ").replace("&nbsp;", " ")
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[re.sub(r"<[^>]*>", "", one) for one in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def final_of(study: Path) -> Final:
    with open_record(study) as record:
        final = record.final()
    assert final
    return final


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")


@pytest.mark.slow
def test_finals_show_every_finalists_folds_and_interval_and_the_winner(study: Path) -> None:
    found, final = sections(), final_of(study)
    head, *rows = cells(found["finals"])
    winner = final.finalists[0]
    assert len(rows) == len(final.finalists) == 4
    assert [one for one in head if one.startswith("fold")] == [
        f"fold {one.fold}, {one.n} pictures" for one in winner.folds
    ]
    assert [row[0] for row in rows] == [
        f"{one.trial}{', the winner' * one.won}{', reference' * one.is_reference}" for one in final.finalists
    ]
    assert sum(one.is_reference for one in final.finalists) == 1
    assert rows[0][0].startswith(f"{winner.trial}, the winner")
    summary = study_status("s")
    trials = {row.number: row for row in summary.leaderboard}
    for row, one in zip(rows, final.finalists, strict=True):
        scores = {score.fold: percent(score.value) for score in one.folds}
        assert row[1 : 1 + len(winner.folds)] == [scores.get(score.fold, NONE) for score in winner.folds]
        n, mean, interval, lead, words = row[1 + len(winner.folds) :]
        assert n == str(sum(score.n for score in one.folds))
        assert mean == percent(one.mean)
        assert interval == " to ".join(percent(end) for end in one.interval)
        assert lead == (" to ".join(points(end) for end in one.behind) if one.behind else NONE)
        assert words.partition(" rate ")[0] == summary.describe(trials[one.trial]).partition(" rate ")[0]
    assert f"<strong>Final model:</strong> {final.reason}." in found["finals"]
    assert f"Trial {winner.trial} won, because it has the best accuracy on the other folds" in found["finals"]
    assert "the finalists were selected on it, so it is not used to rank them." in found["finals"]


@pytest.mark.slow
def test_better_trials_that_were_too_expensive_for_the_finals_are_named(study: Path) -> None:
    summary = study_status("s")
    assert summary.passed_over == ()
    final, better = final_of(study), summary.leaderboard[0]
    assert len(final.finalists) > 2
    others = tuple(one for one in final.finalists if one.trial != better.number)
    passed_over = finals._passed_over(summary.leaderboard, others)
    with open_record(study) as record:
        record.keep_final(replace(final, finalists=others, passed_over=passed_over))
    assert [row.number for row in study_status("s").passed_over] == [better.number]
    said = f"too expensive to train again in the finals: trial {better.number} ({percent(better.value or 0.0)})."
    assert said in sections()["finals"].replace("\xa0", " ").replace("&nbsp;", " ")
    assert said in run_command("status", "s", columns=200).stdout


@pytest.mark.slow
def test_the_final_model_is_shown_beside_its_networks(study: Path) -> None:
    found, final, test = sections(), final_of(study), study_status("s").test
    assert final.divergence is not None
    assert final.changed is not None
    assert test
    values = re.findall(r"<dd>(.*?)<span>", found["finals"].replace("\xa0", " ").replace("&nbsp;", " "))
    assert values == [percent(test.value), percent(final.value or 0.0), f"{final.divergence:.3f} nats",
                      percent(final.changed), f"{final.temperature:.2f}"]  # fmt: skip


@pytest.mark.slow
def test_the_headline_is_the_test_score_of_the_final_model(study: Path) -> None:
    final = final_of(study)
    with open_record(study) as record:
        best = record.best()
        assert best
        other = next(one.trial for one in final.finalists[:2] if one.trial != best.number)
        record.keep_final(replace(final, trial=other, folds=(1, 2, 3, 4), reason="as planted"))
    found = sections()
    assert f"<strong>Winner:</strong> trial {other}," in found["result"]
    assert "<strong>Final model:</strong> as planted;" in found["result"]
    assert "The final model has not been evaluated on the test set yet." in found["result"]
    assert f"Trial {best.number}, the winner" not in found["curves"]
    assert f"the best reached {percent(best.value or 0.0)}" in found["trials"]


@pytest.mark.slow
def test_held_out_confusion_counts_every_pool_picture_of_the_folds_once(study: Path) -> None:
    pictures = read_manifest(study / MANIFEST)
    pool = Counter(picture.label for picture in pictures if picture.part != TEST)
    training = Counter(picture.label for picture in pictures if picture.part not in (TEST, VALIDATION))
    final = final_of(study)
    assert final.folds == (0, 1, 2, 3, 4)
    assert "on the training and validation pictures (n&nbsp;=&nbsp;" in sections()["held-out"]
    assert confused(sections()["held-out"]) == pool
    with open_record(study) as record:
        record.keep_final(replace(final, how=REFIT, folds=(1, 2, 3, 4), n=training.total()))
    assert f"on the training pictures (n&nbsp;=&nbsp;{training.total()})" in sections()["held-out"]
    assert confused(sections()["held-out"]) == training


def confused(html: str) -> Counter[str]:
    """Count the pictures of each label in a confusion matrix, which must agree with its last column."""
    _, *rows = cells(html)
    counts = Counter({label: sum(int(one or 0) for one in row) for label, *row, _ in rows})
    assert [str(n) for n in counts.values()] == [row[-1] for row in rows]
    return counts


@pytest.mark.slow
def test_wrong_labels_of_the_pool_are_among_the_held_out_mistakes(study: Path) -> None:
    wrong = [one for one in read_manifest(study / MANIFEST) if "wrong-" in one.path and one.part != TEST]
    assert wrong
    shown = sections()["held-out"]
    assert all(one.path in shown for one in wrong)
    assert shown.count("<img") <= 24


@pytest.mark.slow
def test_held_out_predictions_that_cannot_be_read_are_reported_with_the_reason(study: Path) -> None:
    for file in (study / "checkpoints").glob("*.logits.safetensors"):
        file.unlink()
    found = sections()
    assert "logits.safetensors is missing." in found["held-out"]
    assert "the winner" in found["finals"]


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_an_exported_average_is_described(study: Path) -> None:
    result = export_trial("s", ExportRequest(threshold=0.5), Resources("cpu"), PlainConsole(quiet=True))
    shown = sections()["export"]
    assert f"Average of the weights of the networks of trial {result.trial}, exported to" in shown
    assert "It is not the current" not in shown
    card = " ".join((Path(result.folder) / CARD).read_text(encoding="utf-8").split())
    folds = len(final_of(study).folds)
    assert f"{folds} were trained without one fold of the training and validation pictures each, and one on all" in card
    assert f"of {result.calibration.answered['held-out'].n} held-out predictions reach it" in shown
    with open_record(study) as record:
        record.keep_final(replace(final_of(study), how=REFIT))
    assert "It is not the current final model." in sections()["export"]


def test_a_study_without_finals_has_no_such_section(here: Path) -> None:
    shutil.copytree(OLD, here / "studies" / "old")
    found = sections("old")
    assert not {"finals", "held-out"} & set(found)
    assert 'href="#finals"' not in (here / "studies" / "old" / "report.html").read_text(encoding="utf-8")
    assert "Final model" not in found["result"]
    assert "test pictures</strong> that no trial used;" in found["result"]
    assert "<strong>Winner:</strong> trial 4," in found["result"]


@pytest.mark.slow
def test_label_errors_are_found_in_the_finals(study: Path, raced: Path) -> None:
    pictures = read_catalog(raced.parent / "photos").pictures
    test = {one.path for one in read_manifest(study / MANIFEST) if one.part == TEST}
    planted = {one.path for one in pictures if "wrong" in one.path} - test
    assert planted
    found = find_label_issues_in_finals("s", pictures, 8).issues
    assert planted <= {one.path for one in found}
    assert [one.doubt for one in found] == sorted((one.doubt for one in found), reverse=True)
    assert not {one.path for one in find_label_issues_in_finals("s", pictures, 1000).issues} & test
    rest = [one for one in pictures if one.path not in planted]
    assert not planted & {one.path for one in find_label_issues_in_finals("s", rest, 1000).issues}
    with pytest.raises(StudyError, match="Study s is of other pictures"):
        find_label_issues_in_finals("s", (), 8)


def test_a_study_without_finals_finds_no_label_errors(here: Path) -> None:
    shutil.copytree(OLD, here / "studies" / "old")
    with pytest.raises(StudyError, match=r"Study old has no finals\.\nOmit --study"):
        find_label_issues_in_finals("old", (), 8)


def test_a_tie_is_between_finalists_on_the_same_number_of_folds() -> None:
    two, one = (tuple(FoldScore(fold, 10, 0.9) for fold in range(n)) for n in (2, 1))
    first = Finalist(1, two, 0.9, (0.8, 1.0), None, won=True, is_reference=True)
    other = replace(first, trial=2, won=False)
    assert is_tie((first, other))
    assert not is_tie((first, replace(other, mean=0.8)))
    assert not is_tie((first, replace(other, folds=one)))
    assert not is_tie(())
