"""A bundle says how far a picture is from all that its model learned."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from conftest import write_digits
from PIL import Image
from small_studies import search

from autotune.errors import DataError
from autotune.export.export import ExportRequest, export_trial
from autotune.export.predict import load
from autotune.export.result import ExportResult
from autotune.study.finals import race
from autotune.study.listener import StudyListener
from autotune.study.request import Resources

pytestmark = pytest.mark.slow


def exported(name: str = "s", **asked: object) -> ExportResult:
    request = ExportRequest(**asked)  # type: ignore[arg-type]
    return export_trial(name, request, Resources("cpu"), StudyListener())


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Noise, which is no digit, and a file that is no picture."""
    folder = tmp_path / "noise"
    folder.mkdir()
    for number, rng in enumerate(np.random.default_rng(0).spawn(30)):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_pictures_of_something_else_are_unknown(finished: Path, foreign: Path, tmp_path: Path) -> None:
    result = exported(unknowns=foreign, out=tmp_path / "bundle", formats=("int8",))
    unknown = result.unknown
    assert unknown
    assert unknown.n == sum(1 for line in (finished / "manifest.csv").open() if ",validation," in line)
    assert unknown.refused in (1, 2)  # 5 % of them
    assert unknown.foreign
    assert unknown.foreign.n == 30
    model = load(tmp_path / "bundle")
    found = [one for one in model.predict(foreign) if one.error is None]
    assert [one.label == "unknown" for one in found] == [(one.distance or 0) > 1 for one in found]
    assert sum(one.label == "unknown" for one in found) == unknown.foreign.unknown == unknown.foreign.by_distance
    assert unknown.foreign.auroc > 0.9
    assert (
        f"Of 30 foreign pictures in `noise`, {unknown.foreign.unknown} are unknown"
        in (tmp_path / "bundle" / "card.md").read_text()
    )
    words = [sys.executable, str(tmp_path / "bundle" / "predict.py"), *(one.path for one in found)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == [one.label for one in found]
    known = model.predict(write_digits(tmp_path / "known", each=20, first=60))  # that no network has seen
    assert np.mean([one.label == "unknown" for one in known]) < 0.3
    numbers = json.loads((tmp_path / "bundle" / "fixtures.json").read_text())["pictures"]
    assert all(one["distance"] > 0 for one in numbers)
    int8 = load(tmp_path / "bundle" / "model.int8.onnx")
    assert {one.distance for one in int8.predict(foreign)} == {None}


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_pictures_is_refused_before_the_export(name: str, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is no folder with pictures.\nPass pictures of none of the classes"):
        exported(unknowns=tmp_path / name)
    assert not (finished / "bundle").exists()


def test_a_class_named_unknown_has_no_distance(here: Path) -> None:
    digits = write_digits(here / "digits", classes=2)
    (digits / "0").rename(digits / "unknown")
    search(digits, 1, flags={"final": "trial"})
    result = exported(out=here / "bundle")
    assert result.unknown is None
    assert "does not measure how far" in (here / "bundle" / "card.md").read_text()
    (found,) = load(here / "bundle").predict(next((digits / "1").iterdir()))
    assert found.distance is None
    assert found.to_json().keys() == {"path", "label", "probability", "top"}


@pytest.mark.in_make_faults
def test_in_the_finals_each_network_judges_the_pictures_that_it_did_not_see(
    here: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "FINALS_SHARE", 100.0)  # of the time of few trials
    summary = search(digits, 2)
    assert summary["final"]["folds"]
    n = summary["final"]["n"]
    done = run_command("export", "s", str(here / "bundle"), "--json")
    found = json.loads(done.stdout)["unknown"]
    assert found["n"] == n
    assert found["refused"] == pytest.approx(0.05 * n, abs=1)
    assert found["foreign"] is None
    assert f"{found['refused']} of {n} held-out pictures" in done.stderr
