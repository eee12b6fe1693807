"""The report of small real studies."""

import csv
import hashlib
import html
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

from autotune.cli.live.console import PlainConsole
from autotune.errors import StudyError
from autotune.export.export import ExportRequest, export_trial
from autotune.report import importance
from autotune.report.curves import why_ended
from autotune.report.report import TEMPLATE, write_report
from autotune.search.settings import Settings, definition
from autotune.study.request import Resources
from autotune.study.storage.evaluations import Mistake
from autotune.study.storage.lock import lock_study
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import BackboneFacts, TrialRow
from autotune.study.summary import study_status
from autotune.training.outcome import Epoch
from autotune.training.params import Params, Phase

PARAMS = Params("quick_cnn", 3, 16, 1e-5, 1e-3, "one-cycle", 0.5, 0.0, "adamw", 32, 0.01, 0.2, 0.0)


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory, here: Path) -> Path:
    """A copy of the awkward study that a test may change, in the current folder."""
    shutil.copytree(finished(tmp_path_factory) / "studies", here / "studies")
    return here / "studies" / "s"


class Reader(HTMLParser):
    """The tags, ids and references of a page."""

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
    """Return a page's visible text, without markup and with normal spaces."""
    words: list[str] = []
    parser = HTMLParser()
    parser.handle_data = words.append  # type: ignore[method-assign, assignment]
    text = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", text, flags=re.DOTALL)
    parser.feed(re.sub(r"<(/td|/th|/dt|span)", r" <\1", text))
    return re.sub(r"\s+", " ", "".join(words).replace("\xa0", " "))


@pytest.mark.slow
def test_report_is_self_contained_and_has_no_scripts(made: Path) -> None:
    text = written()
    page = Reader(text)
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not {"script", "iframe", "object", "embed", "audio", "video"} & set(page.tags)
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert len(text) < 3_000_000


@pytest.mark.slow
def test_ids_are_unique_and_every_reference_resolves(made: Path) -> None:
    page = Reader(written())
    assert len(page.ids) == len(set(page.ids))
    inner = {link[1:] for link in page.links if link.startswith("#")}
    assert len(inner) > 30
    assert inner <= set(page.ids)


@pytest.mark.slow
def test_sections_are_in_order(made: Path) -> None:
    assert [one for one in Reader(written()).ids if one in SECTIONS] == list(SECTIONS)


@pytest.mark.slow
def test_class_and_file_names_are_escaped(made: Path) -> None:
    text = written()
    assert "<script" not in text
    assert "<i>.png" not in text
    assert "&lt;script&gt;alert(1)&lt;script&gt;" in text
    assert all(name in plain(text) for name in NAMES.values())
    assert "broken <i>.png not a picture" in plain(text)


@pytest.mark.slow
def test_report_contains_the_scores_of_the_record(made: Path) -> None:
    text = plain(written())
    with open_record(made) as record:
        winner, final, scores = record.winner(), record.final(), record.evaluations()[-1].scores
        trials = record.trials()
    assert winner
    assert final
    assert scores.calibration
    assert len({row.value for row in trials}) > 1
    assert scores.mistakes
    low, high = (f"{100 * edge:.1f} %" for edge in scores.value_interval)
    assert f"Accuracy on {scores.n} test pictures that neither the trials nor the finals used" in text
    assert f"; 95 % interval {low} to {high}." in text
    assert f"Winner: trial {winner.number}, Quick CNN, from scratch, 16 pixels" in text
    assert f"Final model: {final.reason}; see Finals." in text
    assert "No trials were compared in finals, so the winner is the trial with the best validation score." in text
    assert f"{100 * scores.value:.1f}%" in text
    assert f"Validation accuracy {100 * (winner.value or 0):.1f} %" in text
    assert "Evaluated on the test set once further evaluations would bias the score" in text
    assert f"Temperature {scores.calibration.temperature:.2f}" in text
    for row in trials:
        assert f"Trial {row.number}" in text
    for one in scores.mistakes:
        assert f"{one.path}" in text
    for name, own in scores.per_class.items():
        assert re.search(rf"{re.escape(name)}\s+{100 * own.recall:.1f} %\s+{own.right} of {own.n}", text)


@pytest.mark.slow
def test_duplicates_conflicting_labels_and_skipped_files_are_shown(made: Path) -> None:
    text = written()
    words, pictures = plain(text), text[text.index('id="data"') : text.index('id="reproduce"')]
    first, second, third = NAMES.values()
    assert re.search(rf"{re.escape(second)}/\d+\.png.*{re.escape(third)}/wrong\.bmp", words)
    assert f"{first}/copy.bmp" in words
    assert "2 files were skipped." in words
    assert "stray.png not in a class folder" in words
    assert pictures.count('<img src="data:image/png') == 3  # the conflict, the duplicate, the stray file
    assert pictures.count('class="tiny"') == 3


@pytest.mark.slow
def test_near_duplicates_are_shown_apart_each_with_its_picture(made: Path) -> None:
    file = made / "manifest.csv"
    rows = file.read_text(encoding="utf-8").splitlines()
    names = rows[0].split(",")
    assert "Near-duplicates" not in plain(written())
    changed = list(csv.DictReader(rows))
    alike = [one for one in changed if one["label"] == changed[0]["label"]][:2]
    assert alike[0]["digest"] != alike[1]["digest"]
    for one in alike:
        one["group"] = alike[0]["digest"]
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, names)
        writer.writeheader()
        writer.writerows(changed)
    text = written()
    section = text[text.index("<h3>Near-duplicates</h3>") : text.index('id="reproduce"')]
    section = section[: section.index("</ul>")]
    assert section.count("<img") == 2
    assert all(one["path"] in html.unescape(section) for one in alike)


@pytest.mark.parametrize(
    ("validation", "gaps", "words"),
    [
        ([0.7, 0.8, 0.8, 0.79], [0.0, 0.01, 0.05, 0.061],
         "(6.1 percentage points, over the limit of 5), after 2 epochs without a better one"),
        ([0.8, 0.7, 0.7, 0.79], [0.0, 0.01, 0.02, 0.031],
         "(3.1 percentage points, growing, the limit is 5), after 3 epochs without a better one"),
    ],
)  # fmt: skip
def test_a_stop_by_the_gap_is_explained_by_its_numbers(validation: list[float], gaps: list[float], words: str) -> None:
    epochs = [
        Epoch(number, 1e-3, 0.1, 0.9, value, 0.5, gap, False, 1.0)
        for number, (value, gap) in enumerate(zip(validation, gaps, strict=True), 1)
    ]
    row = TrialRow(0, "complete", PARAMS, "gap", "", value=max(validation), best_epoch=2, epochs=4)
    assert why_ended(row, epochs, {"gap": 0.05}) == f"stopped by the gap between training and validation {words}"


def test_of_a_recipe_the_report_says_where_the_gap_would_have_stopped_its_phases() -> None:
    first = Phase(2, 1, 0, 1e-3, 1e-3, "triangular", 0.0, 0.0, "adamw", 32, 0.0, 0.0, 0.0)
    recipe = replace(PARAMS, phases=(first, replace(first, epochs=6, depth=3)))
    row = TrialRow(0, "complete", recipe, "done", "", value=0.9, best_epoch=3, epochs=8)
    epochs = [
        Epoch(number, 1e-3, 0.1, 0.9, value, 0.5, gap, False, 1.0)
        for number, (value, gap) in enumerate(
            [(0.5, 0.1), (0.6, 0.1), (0.9, 0.0), (0.8, 0.06), (0.8, 0.07), (0.8, 0.08), (0.8, 0.09), (0.8, 0.1)], 1
        )
    ]
    words = why_ended(row, epochs, {"gap": 0.05, "patience": 3})
    assert words == "completed all epochs; in a trial, the gap would have stopped phase 2 after 4 of its 6 epochs"


@pytest.mark.slow
def test_report_is_written_without_the_pictures(made: Path) -> None:
    with open_record(made) as record:
        record.keep_facts(root="/nowhere/at/all")
        wrong = Mistake("gone.png", "a", "b", 0.9)
        scores = replace(record.evaluations()[-1].scores, mistakes=(wrong,))
        record.keep_evaluation(record.trials()[0].number, 1.0, scores)
    text = written()
    assert "<img" not in text
    assert text.count('aria-label="gone.png cannot be displayed"') == 1
    assert "cannot be displayed" in plain(text)


@pytest.mark.slow
def test_a_final_model_without_an_evaluation_is_reported(made: Path) -> None:
    table = Database(made / "record.db").table("evaluations")
    table.update(1, {"final": None})
    table.db.conn.commit()
    assert "Evaluated on the test set once with earlier models" in plain(written())
    table.delete_where()
    table.db.conn.commit()
    text = plain(written())
    assert "Evaluated on the test set" not in text
    assert "Accuracy on the validation set. The final model has not been evaluated on the test set yet." in text
    assert text.count("Not available: the final model has not been evaluated on the test set yet.") == 5
    assert [one for one in Reader(written()).ids if one in SECTIONS] == list(SECTIONS)


@pytest.mark.slow
def test_an_evaluation_without_calibration_is_reported(made: Path) -> None:
    with open_record(made) as record:
        row = record.evaluations()[-1]
        record.keep_evaluation(row.trial, 1.0, replace(row.scores, calibration=None, right=(), confidence=()))
    text = plain(written())
    assert "recorded by a version without calibration" in text
    assert "Evaluated on the test set 2 times" in text


@pytest.mark.slow
def test_failed_trials_and_trials_of_one_epoch_are_shown(made: Path) -> None:
    with open_record(made) as record:
        number = record.trials()[0].number
        db = Database(made / "record.db")
        db.table("epochs").delete_where("trial = ? and number > 1", [number])
        db.table("trials").update(number, {"best_epoch": 1, "epochs": 1})
        db.conn.commit()
        record.keep_failure(7, PARAMS, "out of <memory>", "trace")
    text = written()
    assert "failed, no score" in plain(text)
    assert "out of <memory>" in plain(text)
    assert f'id="curve-{number}-' in text


@pytest.mark.slow
def test_the_verification_of_an_export_is_shown(made: Path) -> None:
    assert "Run autotune export s to write a bundle" in plain(written())
    result = export_trial("s", ExportRequest(threshold=0.5), Resources("cpu"), PlainConsole(quiet=True))
    text = plain(written())
    row = result.files[0]
    assert f"model.onnx {row.bytes / 1e6:.1f} {row.largest_difference:.1e} 0 {row.right} of {row.n}" in text
    assert "Predictions below a probability of 0.5 are labelled “unknown”." in text
    assert f"of {result.calibration.answered['test'].n} test predictions reach it" in text
    assert "Refit of trial" in text
    assert "It was trained on them, so this does not measure its quality." in text


@pytest.mark.slow
def test_a_running_study_is_reported_and_not_changed(made: Path) -> None:
    def digest() -> str:
        return hashlib.sha256((made / "trials.db").read_bytes()).hexdigest()

    before = digest()
    with lock_study(made):
        page = written()
        assert "Hyperparameter importance" in page
        n, asked = study_status("s").n_trials["total"], study_status("s").asked
        assert f"The search is running: {n} of {asked} trials done." in plain(page)
    assert "The search is running" not in written()
    assert digest() == before


@pytest.mark.slow
def test_without_trials_db_the_report_gives_the_reason_for_missing_importances(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Too few complete trials to compare hyperparameters: 4 of at least 15." in plain(written())
    monkeypatch.setattr(importance, "FEWEST", 4)
    (made / "trials.db").write_bytes(b"no database")
    assert "trials.db, which contains the hyperparameters, cannot be read." in plain(written())
    (made / "trials.db").unlink()
    assert "trials.db, which contains the hyperparameters, does not exist." in plain(written())


@pytest.mark.slow
def test_report_is_written_atomically(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_report("s")
    (made / "report.html").write_text("before")
    monkeypatch.setattr(Path, "replace", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(StudyError, match="No space left"):
        write_report("s")
    monkeypatch.undo()
    assert Path(first["file"]).read_text() == "before"
    assert [file.name for file in made.glob("report.*")] == ["report.html"]


@pytest.mark.slow
def test_the_command_prints_the_path_of_the_report(made: Path) -> None:
    result = run_command("report", "s")
    assert result.stdout == f"Wrote {made / 'report.html'}\n"
    found = json.loads(run_command("report", "s", "--json").stdout)
    assert found == {"study": "s", "file": str(made / "report.html")}


def test_a_study_without_a_complete_trial_raises_an_error_with_a_fix(here: Path) -> None:
    folder = here / "studies" / "s"
    folder.mkdir(parents=True)
    with open_record(folder) as record:
        backbone = BackboneFacts("quick_cnn", "Quick CNN", 3, True, (16,), (3,), "")
        record.keep_facts(
            definition=definition(Settings()), root=str(here), classes=("a", "b"), backbones={"quick_cnn": backbone}
        )
        record.keep_failure(0, PARAMS, "no memory", "trace")
    with pytest.raises(StudyError, match="Study s has no complete trial") as caught:
        write_report("s")
    assert caught.value.fix == "Run the search again until one completes."
    assert not (folder / "report.html").exists()


def test_text_has_enough_contrast_in_both_themes() -> None:
    """WCAG 2 requires a contrast of 4.5 for text, also on the deepest colour of the confusion matrix."""
    style = TEMPLATE.read_text(encoding="utf-8")
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#\w+|\d+ \d+ \d+)", block))
        paper, raised = _rgb(colours["paper"]), _rgb(colours["raised"])
        for name in ("ink", "muted", "train", "validation"):
            assert _contrast(_rgb(colours[name]), paper) >= 4.5, (name, block)
            assert _contrast(_rgb(colours[name]), raised) >= 4.5, (name, block)
        for name, depth in (("right", 0.5), ("wrong", 0.55)):
            cell = depth * _rgb(colours[name]) + (1 - depth) * paper
            assert _contrast(_rgb(colours["ink"]), cell) >= 4.5, (name, block)


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
