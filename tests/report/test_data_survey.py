import json
from pathlib import Path

from conftest import write_digits
from PIL import Image

from autotune.report.data_survey import survey_data
from autotune.study.listener import StudyListener


def test_survey_counts_pictures_duplicates_conflicts_and_skipped_files(digits: Path) -> None:
    first, second = sorted(digits.glob("0/*.png"))[:2]
    Image.open(first).save(digits / "0" / "copy.bmp")
    Image.open(second).save(digits / "1" / "copy.bmp")
    (digits / "2" / "bad.jpg").write_bytes(b"no picture")
    found = survey_data(digits, 0, StudyListener())
    assert (found.pictures, dict(found.classes)) == (152, {"0": 51, "1": 51, "2": 50})
    assert found.uneven == 51 / 50
    assert found.parts
    assert sum(found.parts.values()) == 152
    assert [one.path for one in found.skipped] == ["2/bad.jpg"]
    assert [{p.label for p in group} for group in found.contradictions] == [{"0", "1"}]
    assert len(found.duplicates) == 2
    plain = found.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["skipped"][0]["path"] == "2/bad.jpg"
    assert sorted(map(sorted, plain["duplicates"]))[0] == sorted(["0/copy.bmp", f"0/{first.name}"])


def test_survey_of_too_few_pictures_gives_the_reason_why_no_study_can_start(tmp_path: Path) -> None:
    found = survey_data(write_digits(tmp_path / "few", classes=2, each=2), 5, StudyListener())
    assert found.parts is None
    assert found.problem
    assert "need one each" in found.problem
    assert found.suspects == ()
