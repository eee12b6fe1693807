"""Real studies are exported and verified; manipulated models are rejected."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import write_digits
from small_studies import search
from sqlite_utils import Database

from autotune.cli.live.console import PlainConsole
from autotune.errors import AutotuneError, BundleError, ConfigError, StudyError
from autotune.export import bundle
from autotune.export.export import ExportRequest, export_trial
from autotune.export.predict import find_pictures, load
from autotune.export.result import ExportResult
from autotune.formats import graph
from autotune.formats.onnx_session import Outputs
from autotune.formats.table import FORMATS
from autotune.study.request import Resources
from autotune.study.storage.record import Record
from autotune.study.storage.rows import ExportRow

pytestmark = pytest.mark.slow
EVERY = ("int8", "pt2", "safetensors")


def exported(name: str = "s", **asked: Any) -> ExportResult:
    return export_trial(name, ExportRequest(**asked), Resources("cpu"), PlainConsole(quiet=True))


def rows(study: Path) -> list[ExportRow]:
    record = Record(study / "record.db")
    try:
        return record.exports()
    finally:
        record.close()


def test_every_format_is_verified_and_the_bundle_is_complete(finished: Path) -> None:
    result = exported(formats=EVERY, threshold=0.5)
    out = finished / "bundle"
    assert [row.format for row in result.files] == ["onnx", *EVERY]
    assert {row.verdict for row in result.files} == {"verified"}
    sizes = {row.format: row.bytes for row in result.files}
    assert sizes["int8"] <= 0.4 * sizes["onnx"]
    for row in result.files:
        assert row.n == sum(1 for line in (finished / "manifest.csv").open() if ",validation," in line)
        assert (row.milliseconds_one_thread or 0) > 0
        assert (row.milliseconds_all_threads or 0) > 0
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [
            "bundle.json",
            "card.md",
            "labels.txt",
            "predict.py",
            "preprocessing.json",
            "resize.js",
            "fixtures.json",
            "fixture-wide.png",
            "fixture-turned.jpg",
            "fixture-transparent.png",
            *(FORMATS[name].file for name in ("onnx", *EVERY)),
        ]
    )
    opened = bundle.open_bundle(out)
    assert (opened.labels, opened.threshold) == (("0", "1", "2"), 0.5)
    again = "autotune export s" + "".join(f" --format {name}" for name in EVERY) + " --threshold 0.5\n"
    assert again in (out / "card.md").read_text()
    assert rows(finished)[0].facts == result.to_json()
    home = str(Path(__file__).parents[2]).encode()
    assert [file.name for file in out.iterdir() if home in file.read_bytes()] == []  # no local path
    onnx.checker.check_model(onnx.load(out / "model.onnx"), full_check=True)
    assert result.calibration.answered["test"].n == sum(
        1 for line in (finished / "manifest.csv").open() if ",test," in line
    )
    assert not list(finished.glob(".bundle*"))


def test_the_card_is_a_hugging_face_card_with_the_scores(finished: Path) -> None:
    exported(out=finished / "b", precision=0.9)
    text = (finished / "b" / "card.md").read_text()
    block = yaml.safe_load(text.split("---")[1])
    assert block["pipeline_tag"] == "image-classification"
    record = Record(finished / "record.db")
    value = record.evaluations()[0].scores.value
    record.close()
    result = block["model-index"][0]["results"][0]
    assert result["metrics"][0]["value"] == pytest.approx(value, abs=1e-4)
    assert result["dataset"]["split"] == "test"
    for expected in (
        "model.onnx",
        "verified",
        "Evaluated once on the test set",
        "Expected calibration error",
        "autotune search",
    ):
        assert expected in text
    beside = r"\d+\.\d percentage points (above|below) the test score, (within|outside) the interval of the latter"
    assert re.search(rf"it is ({beside}|as high as the test score)\.", text)
    assert "{{" not in text
    assert str(finished.parent) not in text


def test_predict_py_agrees_with_autotune_and_needs_only_three_packages(here: Path, tmp_path: Path) -> None:
    space = {"optimizer": "adamw", "lr_high": 3e-3, "cycle": "one-cycle", "augment": 0.25}  # learns, whatever is drawn
    search(write_digits(tmp_path / "digits3"), 1, flags={"epochs": 15, **space})
    finished = here / "studies" / "s"
    exported()
    new = write_digits(tmp_path / "new", first=50, each=20)
    files = [str(file) for file in find_pictures([new])]
    hidden = "import sys; sys.modules.update(dict.fromkeys(('torch', 'autotune', 'torchvision', 'optuna', 'scipy')));"
    script = finished / "bundle" / "predict.py"
    run = (
        f"{hidden} import runpy; sys.argv = {[str(script), *files]!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    predictions = load(finished / "bundle").predict(files)
    assert result.stdout.splitlines() == [f"{one.path}\t{one.label}\t{one.probability:.4f}" for one in predictions]
    assert np.mean([Path(one.path).parent.name == one.top[0][0] for one in predictions]) > 0.8


def test_the_study_and_its_bundle_agree(finished: Path, tmp_path: Path) -> None:
    exported()
    new = write_digits(tmp_path / "new", first=50, each=10)
    ours, theirs = (load(source, Resources("cpu")).predict([new], 3) for source in ("s", finished / "bundle"))
    assert [one.top[0][0] for one in ours] == [one.top[0][0] for one in theirs]  # the study measures no distance
    assert [one.probability for one in ours] == pytest.approx([one.probability for one in theirs], abs=1e-5)


def test_a_model_with_two_swapped_classes_is_rejected(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = graph.assemble_graph

    def swapped(*given: Any) -> graph.InferenceGraph:
        model = original(*given)
        assert isinstance(model.head, torch.nn.Linear)
        with torch.no_grad():
            model.head.weight[[0, 1]] = model.head.weight[[1, 0]].clone()
            model.head.bias[[0, 1]] = model.head.bias[[1, 0]].clone()
        return model

    monkeypatch.setattr(graph, "assemble_graph", swapped)
    with pytest.raises(
        BundleError, match=r"model\.onnx was rejected: the predictions for .* differ.*\.png: . 0\.\d+ became"
    ):
        exported()
    assert not (finished / "bundle").exists()
    assert rows(finished) == []
    assert not list(finished.glob(".bundle*"))


def test_a_model_with_a_shifted_mean_is_rejected(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = graph.assemble_graph

    def shifted(*given: Any) -> graph.InferenceGraph:
        model = original(*given)
        model.mean += 0.02
        return model

    monkeypatch.setattr(graph, "assemble_graph", shifted)
    with pytest.raises(BundleError, match="was rejected"):
        exported()
    assert not (finished / "bundle").exists()


def test_an_int8_model_with_fewer_correct_predictions_is_removed_and_the_other_files_remain(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def biased(source: Path, file: Path, _: Any) -> None:
        model = onnx.load(source)
        bias = next(one for one in model.graph.initializer if one.name == "head.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] += 100
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(model, file)

    monkeypatch.setattr(graph, "write_int8", biased)
    problem = exported(formats=("int8",)).rejection()
    assert problem
    assert re.match(r"model\.int8\.onnx was rejected: \d+ fewer correct predictions", problem.problem)
    assert not (finished / "bundle" / "model.int8.onnx").exists()
    assert "model.int8.onnx" in (finished / "bundle" / "card.md").read_text()
    bundle.open_bundle(finished / "bundle")


def test_a_network_with_another_score_than_its_trial_is_not_exported(finished: Path) -> None:
    record = Record(finished / "record.db")
    best = record.best()
    assert best
    record.close()
    db = Database(finished / "record.db")
    db.table("trials").update(best.number, {"value": 0.1})
    db.conn.commit()
    with pytest.raises(StudyError, match=r"scores .* the study measured 10\.0 %"):
        exported()


def test_an_export_replaces_an_unchanged_bundle_of_the_study_and_nothing_else(finished: Path) -> None:
    def export(threshold: float) -> Path:
        return export_trial("s", ExportRequest(threshold=threshold), Resources("cpu"), PlainConsole(quiet=True)).folder

    folder = export(0.2)
    assert export(0.3) == folder
    assert json.loads((folder / "preprocessing.json").read_text())["threshold"] == 0.3
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="nor an unchanged bundle of study s"):
        export(0.4)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not list(folder.parent.glob(".bundle*"))


def test_any_complete_trial_can_be_exported(finished: Path) -> None:
    record = Record(finished / "record.db")
    complete = [row.number for row in record.trials() if row.state == "complete"]
    record.close()
    assert exported(trial=complete[-1]).trial == complete[-1]
    with pytest.raises(StudyError, match="Trial 99 of study s does not exist"):
        exported(trial=99, out=finished / "other")


def test_the_final_model_is_exported_and_a_trial_by_its_number_is_its_own_network(finished: Path) -> None:
    final = exported()
    assert final.how == "refit"
    assert "on the training and validation pictures together" in (finished / "bundle" / "card.md").read_text()
    plain = exported(trial=final.trial, out=finished / "plain")
    assert plain.how == "trial"
    assert final.calibration.temperature == pytest.approx(plain.calibration.temperature)  # of the trial's own network
    one, other = ((finished / name / "model.onnx").read_bytes() for name in ("bundle", "plain"))
    assert one != other


def test_predictions_below_the_threshold_are_unknown(finished: Path, tmp_path: Path) -> None:
    exported(threshold=0.999)
    model = load(finished / "bundle")
    noise = tmp_path / "noise.png"
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(noise)
    assert model.predict([noise])[0].label == "unknown"

    def without_distance(squares: np.ndarray) -> Outputs:
        return Outputs(model.run(squares).probabilities)

    assert replace(model, threshold=0.0, run=without_distance).predict([noise])[0].label in {"0", "1", "2"}


@pytest.mark.parametrize(
    ("asked", "kind", "problem"),
    [
        ({"formats": ("onxx",)}, ConfigError, "No format named 'onxx'"),
        ({"threshold": 1.5}, ConfigError, "threshold cannot be 1.5"),
        ({"threshold": 0.5, "precision": 0.9}, ConfigError, "both set the threshold"),
        ({"out": Path("studies")}, BundleError, "neither an empty folder"),
        ({"out": Path("studies/s/record.db/x")}, BundleError, "cannot be created"),
    ],
)
def test_invalid_requests_raise_errors_with_a_fix(
    finished: Path, asked: dict[str, Any], kind: type, problem: str
) -> None:
    with pytest.raises(kind, match=problem) as error:
        exported(**asked)
    assert isinstance(error.value, AutotuneError)
    assert error.value.fix
    assert rows(finished) == []


def test_the_error_for_a_missing_runtime_names_the_extra(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxscript"):
        with monkeypatch.context() as hidden:
            hidden.setitem(sys.modules, name, None)
            with pytest.raises(BundleError, match=f"{name} is not installed") as error:
                exported()
        assert "autotune-vision[export]" in error.value.fix
    assert not (finished / "bundle").exists()


def test_a_study_without_a_complete_trial_cannot_be_exported(here: Path) -> None:
    (here / "studies" / "empty").mkdir(parents=True)
    Record(here / "studies" / "empty" / "record.db").close()
    with pytest.raises(StudyError, match="no complete trial"):
        exported("empty")


def test_a_missing_validation_picture_stops_the_export(finished: Path, searched: Path) -> None:
    record = Record(finished / "record.db")
    moved = shutil.copytree(record.facts().root, finished / "moved")
    record.keep_facts(root=str(moved))
    record.close()
    line = next(line for line in (finished / "manifest.csv").open() if ",validation," in line)
    (Path(moved) / line.split(",")[0]).unlink()
    with pytest.raises(AutotuneError, match=r"Validation picture .* cannot be read"):
        exported()
    assert not (finished / "bundle").exists()
