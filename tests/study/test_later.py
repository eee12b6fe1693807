"""Evaluations on later pictures."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import write_digits
from PIL import Image
from small_studies import search

import autotune
from autotune.errors import DataError
from autotune.export.export import ExportRequest, export_trial
from autotune.report.report import write_report
from autotune.study.growth.later import evaluate_later
from autotune.study.listener import StudyListener
from autotune.study.request import Resources
from autotune.study.storage.evaluations import LaterRow
from autotune.study.summary import study_status


def evaluate(on: Path, study: str = "s", group_by: str = "auto") -> LaterRow:
    return evaluate_later(study, on, Resources("cpu"), StudyListener(), group_by)


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """Other pictures of the digits that the study knows, with names of three visits."""
    folder = write_digits(tmp_path / "later", each=18, first=100)
    for inner in folder.iterdir():
        for i, file in enumerate(sorted(inner.iterdir())):
            file.rename(file.with_name(f"burst_{i // 6}_{i}.png"))
    return folder


def sealed(study: Path) -> Any:
    with sqlite3.connect(study / "record.db") as record:
        return record.execute("select * from evaluations").fetchall()


def test_later_pictures_are_scored_and_recorded_and_the_test_set_is_untouched(finished: Path, later: Path) -> None:
    before, shown = sealed(finished), study_status("s").to_json()
    first, second = evaluate(later), evaluate(later)
    assert first.scores is not None
    found = first.scores.evaluation
    assert (found.n, found.n_visits, first.n_read, first.missing, first.copies) == (54, 9, 54, (), {})
    assert found.value_interval[0] <= found.value <= found.value_interval[1]
    assert (first.id, second.id) == (1, 2)
    assert sealed(finished) == before
    after = study_status("s").to_json()
    assert [row["id"] for row in after["later"]] == [1, 2]
    assert "Measure it on later pictures" in shown.pop("scope")
    assert "Measure it on later pictures" not in after.pop("scope")
    assert {k: v for k, v in after.items() if k != "later"} == {k: v for k, v in shown.items() if k != "later"}


def test_one_visit_of_each_class_widens_the_interval(finished: Path, later: Path) -> None:
    for inner in later.iterdir():
        for file in sorted(inner.iterdir()):
            file.rename(file.with_name(f"burst_0_{file.stem.split('_')[2]}.png"))
    by_visit, by_picture = evaluate(later).scores, evaluate(later, group_by="none").scores
    assert by_visit is not None
    assert by_picture is not None
    one, other = by_visit.evaluation, by_picture.evaluation
    assert (one.n_visits, other.n_visits) == (3, 0)
    assert one.value_interval[1] - one.value_interval[0] > other.value_interval[1] - other.value_interval[0]


@pytest.mark.in_make_faults
def test_scores_of_an_earlier_model_are_not_those_of_the_final_model(here: Path, tmp_path: Path, later: Path) -> None:
    data = write_digits(tmp_path / "digits", classes=3, each=50)
    flags = {"epochs": 3, "final": "trial"}
    search(data, 1, flags=flags)
    old = evaluate(later)
    search(data, 1, flags={**flags, "final": "refit"})
    refitted = study_status("s")
    assert refitted.final is not None
    assert (refitted.winner.number, refitted.later, len(refitted.later_before)) == (old.trial, (), 1)
    assert "Measure it on later pictures" in refitted.scope
    assert "later pictures, later" not in card(None)
    new = evaluate(later)
    assert new.final != old.final
    assert [row.id for row in study_status("s").later] == [new.id]
    assert card(None).count("| later pictures, later |") == 1
    assert "later pictures, later" not in card(new.trial)
    report = Path(write_report("s")["file"]).read_text(encoding="utf-8")
    assert report.count("not the current model") == 1
    assert report.count(old.model) == 2


def card(trial: int | None) -> str:
    folder = export_trial("s", ExportRequest(trial=trial), Resources("cpu"), StudyListener()).folder
    return (folder / "card.md").read_text(encoding="utf-8")


def test_python_returns_what_the_record_holds(finished: Path, later: Path) -> None:
    found = autotune.Study("s", device="cpu").evaluate(later)
    assert found == json.loads(json.dumps(study_status("s").to_json()["later"][0]))


def test_copies_of_any_part_are_left_out_by_name(finished: Path, searched: Path, later: Path) -> None:
    own = searched.parents[1] / "digits3"
    rows = (finished / "manifest.csv").read_text().splitlines()[1:]
    for part in ("train", "validation", "test"):
        path = next(row.split(",")[0] for row in rows if f",{part}," in row)
        with Image.open(own / path) as image:
            image.save(later / "0" / f"copy-{part}.png")
    found = evaluate(later)
    assert sorted(found.copies) == [f"0/copy-{part}.png" for part in ("test", "train", "validation")]
    assert found.scores is not None
    assert found.scores.evaluation.n == 54


@pytest.mark.in_make_faults
def test_near_copies_of_photos_are_left_out(here: Path, tmp_path: Path) -> None:
    from conftest import photos

    some = photos("flowers")
    for label in ("daisy", "roses"):
        for part, files in (("old", slice(0, 20)), ("new", slice(30, 34))):
            (tmp_path / part / label).mkdir(parents=True)
            for file in sorted((some / label).iterdir())[files]:
                shutil.copy(file, tmp_path / part / label)
    search(tmp_path / "old", 1, flags={"backbone": ["efficientnet_lite0"], "epochs": 1, "final": "trial"})
    first = sorted((tmp_path / "old" / "roses").iterdir())[0]
    with Image.open(first) as image:
        image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(tmp_path / "new" / "roses" / "smaller.jpg")
    found = evaluate(tmp_path / "new")
    assert found.copies == {"roses/smaller.jpg": f"roses/{first.name}"}
    assert found.drift is not None
    assert found.drift.interval[0] < found.drift.effect < found.drift.interval[1]


def test_unknown_labels_missing_classes_and_unreadable_files_are_named(finished: Path, later: Path) -> None:
    shutil.move(later / "2", later / "seven")
    (later / "0" / "broken.png").write_text("x")
    found = evaluate(later)
    assert (found.unknown, found.missing, [one.path for one in found.skipped]) == (
        {"seven": 18},
        ("2",),
        ["0/broken.png"],
    )
    assert found.scores is not None
    assert found.scores.evaluation.n == 36
    test = study_status("s").test
    assert test is not None
    right, n = (sum(getattr(test.per_class[name], what) for name in ("0", "1")) for what in ("right", "n"))
    page = Path(write_report("s")["file"]).read_text()
    assert f"of the test pictures of the same classes, {right} of {n} are classified correctly" in page


def test_pictures_without_labels_are_read_and_have_no_scores(finished: Path, later: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, file in enumerate(later.rglob("*.png")):
        shutil.copy(file, flat / f"{number}.png")
    found = evaluate(flat)
    assert (found.unlabelled, found.scores, found.unknown) == (54, None, {})


def test_the_report_shows_later_pictures_and_their_mistakes(finished: Path, later: Path) -> None:
    for file in (later / "1").iterdir():  # labels that the network cannot agree with
        shutil.copy(file, later / "0" / f"wrong-{file.name}")
    found = evaluate(later)
    assert found.scores is not None
    assert found.scores.evaluation.mistakes
    page = Path(write_report("s")["file"]).read_text()
    assert "later pictures in" in page
    assert "misclassified later pictures" in page
    assert found.scores.evaluation.mistakes[0].path in page


def test_the_answers_at_the_threshold_of_the_bundle_are_counted(finished: Path, later: Path) -> None:
    autotune.Study("s", device="cpu").best.export(finished / "bundle", threshold=0.9)
    found = evaluate(later)
    assert found.scores is not None
    assert found.scores.answered is not None
    assert found.scores.answered.threshold == 0.9
    assert found.scores.answered.right <= found.scores.answered.answered <= found.scores.answered.n == 54
    card = (finished / "bundle" / "card.md").read_text()
    assert "No visits are known" in card
    request = ExportRequest(finished / "again", threshold=0.9)
    again = export_trial("s", request, Resources("cpu"), StudyListener()).calibration.answered["later"]
    assert (again.n, again.answered, again.right) == (54, found.scores.answered.answered, found.scores.answered.right)


def test_a_folder_of_copies_only_and_an_empty_folder_are_refused(
    finished: Path, searched: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="are copies of pictures of study s"):
        evaluate(searched.parents[1] / "digits3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        evaluate(tmp_path / "empty")
    assert study_status("s").later == ()
