"""The report, of small real studies, and each of the parts that it is put together from."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from awkward_study import NAMES, SECTIONS, finished
from commands import run_command
from sqlite_utils import Database

from autotune.cli.console import PlainConsole
from autotune.errors import StudyError
from autotune.export.export import ExportRequest, export_trial
from autotune.report.report import TEMPLATE, write_report
from autotune.search.settings import Settings, definition
from autotune.study.record import lock_study, open_record
from autotune.study.request import Resources
from autotune.study.rows import BackboneFacts, Mistake
from autotune.training.params import Params

PARAMS = Params("small_cnn", 3, 32, 1e-5, 1e-3, "one-cycle", 0.5, 0.0, "adamw", 32, 0.01, 0.2, 0.0)


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory, here: Path) -> Path:
    """A copy of that study, to stand before and to change."""
    shutil.copytree(finished(tmp_path_factory) / "studies", here / "studies")
    return here / "studies" / "s"


class Reader(HTMLParser):
    """What a page holds: its tags, ids, and everything that it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "data", "action", "poster", "background"):
                self.links.append(value or "")
            self.links += re.findall(r"url\(([^)]*)\)", value or "")


def written() -> str:
    return Path(write_report("s")["file"]).read_text(encoding="utf-8")


def plain(text: str) -> str:
    """A page's words as they are read, without markup and with usual spaces."""
    words: list[str] = []
    parser = HTMLParser()
    parser.handle_data = words.append  # type: ignore[method-assign, assignment]
    text = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", text, flags=re.DOTALL)
    parser.feed(re.sub(r"<(/td|/th|/dt|span)", r" <\1", text))
    return re.sub(r"\s+", " ", "".join(words).replace("\xa0", " "))


@pytest.mark.slow
def test_a_report_is_one_file_that_asks_for_nothing(made: Path) -> None:
    text = written()
    page = Reader(text)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not {"script", "iframe", "object", "embed", "audio", "video"} & set(page.tags)
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert len(text) < 3_000_000


@pytest.mark.slow
def test_ids_are_unique_and_every_reference_finds_its_own(made: Path) -> None:
    page = Reader(written())
    assert len(page.ids) == len(set(page.ids))
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert len(inner) > 30
    assert inner <= set(page.ids)


@pytest.mark.slow
def test_every_section_stands_in_its_place(made: Path) -> None:
    assert [one for one in Reader(written()).ids if one in SECTIONS] == list(SECTIONS)


@pytest.mark.slow
def test_names_of_classes_and_files_are_text_and_never_markup(made: Path) -> None:
    text = written()
    assert "<script" not in text
    assert "<i>.png" not in text
    assert "&lt;script&gt;alert(1)&lt;script&gt;" in text
    assert all(name in plain(text) for name in NAMES.values())
    assert "broken <i>.png not a picture" in plain(text)


@pytest.mark.slow
def test_it_says_what_the_record_says(made: Path) -> None:
    told = plain(written())
    with open_record(made) as record:
        best, scores = record.best(), record.evaluations()[-1].scores
        trials = record.trials()
    assert best
    assert scores.calibration
    assert len({row.value for row in trials}) > 1
    assert scores.mistakes
    low, high = (f"{100 * edge:.1f} %" for edge in scores.value_interval)
    assert f"Accuracy on {scores.n} test pictures that no trial ever saw; 95 % interval {low} to {high}." in told
    assert f"Winner: trial {best.number}, Small CNN, from scratch, 32 pixels" in told
    assert f"{100 * scores.value:.1f}%" in told
    assert f"Validation {100 * (best.value or 0):.1f} %" in told
    assert "Test pictures looked at once" in told
    assert f"Temperature {scores.calibration.temperature:.2f}" in told
    for row in trials:
        assert f"Trial {row.number}" in told
    for one in scores.mistakes:
        assert f"{one.path}" in told
    for name, own in scores.per_class.items():
        assert re.search(rf"{re.escape(name)}\s+{100 * own.recall:.1f} %\s+{own.right} of {own.n}", told)


@pytest.mark.slow
def test_copies_contradictions_and_what_was_set_aside_are_shown(made: Path) -> None:
    text = written()
    told, pictures = plain(text), text[text.index('id="data"') : text.index('id="export"')]
    first, second, third = NAMES.values()
    assert re.search(rf"{re.escape(second)}/\d+\.png.*{re.escape(third)}/wrong\.bmp", told)
    assert f"{first}/copy.bmp" in told
    assert "2 files were not used." in told
    assert "stray.png lies in no class's folder" in told
    assert pictures.count('<img src="data:image/png') == 3  # the contradiction, the copy, the stray file
    assert pictures.count('class="tiny"') == 3


@pytest.mark.slow
def test_it_needs_no_pictures(made: Path) -> None:
    with open_record(made) as record:
        record.keep_facts(root="/nowhere/at/all")
        wrong = Mistake("gone.png", "a", "b", 0.9)
        scores = replace(record.evaluations()[-1].scores, mistakes=(wrong,))
        record.keep_evaluation(record.trials()[0].number, 1.0, scores)
    text = written()
    assert "<img" not in text
    assert text.count('aria-label="gone.png cannot be shown"') == 1
    assert "cannot be shown" in plain(text)


@pytest.mark.slow
def test_without_a_look_it_says_so(made: Path) -> None:
    with open_record(made) as record:
        last = record.trials()[-1].number
    table = Database(made / "record.db").table("evaluations")
    table.update(1, {"trial": last})
    table.db.conn.commit()
    assert "Test pictures looked at once with earlier winners" in plain(written())
    table.delete_where()
    table.db.conn.commit()
    told = plain(written())
    assert "Test pictures looked at" not in told
    assert "Accuracy on validation. The winner has not met the test pictures yet" in told
    assert told.count("so there is nothing to tell here") == 4
    assert [one for one in Reader(written()).ids if one in SECTIONS] == list(SECTIONS)


@pytest.mark.slow
def test_a_look_from_before_calibration_is_told_without_it(made: Path) -> None:
    with open_record(made) as record:
        row = record.evaluations()[-1]
        record.keep_evaluation(row.trial, 1.0, replace(row.scores, calibration=None, right=(), confidence=()))
    told = plain(written())
    assert "taken before calibration was kept" in told
    assert "Test pictures looked at twice" in told


@pytest.mark.slow
def test_trials_of_one_epoch_pruned_and_failed_ones_are_drawn(made: Path) -> None:
    with open_record(made) as record:
        number = record.trials()[0].number
        db = Database(made / "record.db")
        db.table("epochs").delete_where("trial = ? and number > 1", [number])
        db.table("trials").update(number, {"best_epoch": 1, "epochs": 1})
        db.conn.commit()
        record.keep_failure(7, PARAMS, "out of <memory>", "trace")
    text = written()
    assert "failed, without a value" in plain(text)
    assert "out of <memory>" in plain(text)
    assert f'id="curve-{number}-' in text


@pytest.mark.slow
def test_the_proof_of_an_export_is_shown(made: Path) -> None:
    assert "autotune export s writes a bundle" in plain(written())
    result = export_trial("s", ExportRequest(threshold=0.5, refit=True), Resources("cpu"), PlainConsole(quiet=True))
    told = plain(written())
    row = result.files[0]
    assert f"model.onnx {row.bytes / 1e6:.1f} {row.largest_difference:.1e} 0 {row.right} of {row.n}" in told
    assert "Below a probability of 0.5 the answer is" in told
    assert f"of {result.calibration.answered['test'].n} test pictures" in told
    assert "It was trained again on training and validation pictures" in told


@pytest.mark.slow
def test_a_study_at_work_is_reported_and_nothing_of_it_is_changed(made: Path) -> None:
    def digest() -> str:
        return hashlib.sha256((made / "trials.db").read_bytes()).hexdigest()

    before = digest()
    with lock_study(made):
        assert "Which choices mattered" in written()
    assert digest() == before


@pytest.mark.slow
def test_without_trials_db_choices_are_left_out_with_the_reason(made: Path) -> None:
    (made / "trials.db").write_bytes(b"no database")
    assert "trials.db, which holds what was chosen, cannot be read now." in plain(written())
    (made / "trials.db").unlink()
    assert "trials.db, which holds what was chosen, is not there." in plain(written())


@pytest.mark.slow
def test_it_is_written_whole_or_not_at_all(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_report("s")
    (made / "report.html").write_text("before")
    monkeypatch.setattr(Path, "replace", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(StudyError, match="No space left"):
        write_report("s")
    monkeypatch.undo()
    assert Path(first["file"]).read_text() == "before"
    assert [file.name for file in made.glob("report.*")] == ["report.html"]


@pytest.mark.slow
def test_the_command_says_where_the_file_is(made: Path) -> None:
    told = run_command("report", "s")
    assert told.stdout == f"Wrote {made / 'report.html'}\n"
    found = json.loads(run_command("report", "s", "--json").stdout)
    assert found == {"study": "s", "file": str(made / "report.html")}


def test_a_study_without_a_complete_trial_is_a_problem_with_a_fix(here: Path) -> None:
    folder = here / "studies" / "s"
    folder.mkdir(parents=True)
    with open_record(folder) as record:
        backbone = BackboneFacts("small_cnn", "Small CNN", 3, True, (32,), (3,), "")
        record.keep_facts(
            definition=definition(Settings()), root=str(here), classes=("a", "b"), backbones={"small_cnn": backbone}
        )
        record.keep_failure(0, PARAMS, "no memory", "trace")
    with pytest.raises(StudyError, match="Study s has no complete trial") as caught:
        write_report("s")
    assert caught.value.fix == "Let it finish one: the same search again."
    assert not (folder / "report.html").exists()


def test_text_and_marks_stand_out_in_light_and_dark() -> None:
    """WCAG 2: 4.5 for text. The deepest heat still carries the ink."""
    style = TEMPLATE.read_text(encoding="utf-8")
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#\w+|\d+ \d+ \d+)", block))
        paper, raised = _rgb(colours["paper"]), _rgb(colours["raised"])
        for name in ("ink", "muted", "train", "validation"):
            assert _contrast(_rgb(colours[name]), paper) >= 4.5, (name, block)
            assert _contrast(_rgb(colours[name]), raised) >= 4.5, (name, block)
        for name, depth in (("right", 0.5), ("wrong", 0.55)):
            temperature = depth * _rgb(colours[name]) + (1 - depth) * paper
            assert _contrast(_rgb(colours["ink"]), temperature) >= 4.5, (name, block)


def _rgb(text: str) -> Any:
    if not text.startswith("#"):
        return np.array([int(one) for one in text.split()], float)
    digits = text[1:] if len(text) == 7 else "".join(2 * one for one in text[1:])
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)], float)


def _contrast(one: Any, other: Any) -> float:
    def luminance(colour: Any) -> float:
        share = colour / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
