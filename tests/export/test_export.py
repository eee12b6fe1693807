"""Real studies, exported and verified; models that were tampered with are refused."""

import json
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
from sqlite_utils import Database
from torchvision.models import resnet18

from autotune.cli.console import PlainConsole
from autotune.errors import AutotuneError, BundleError, ConfigError, StudyError
from autotune.export import bundle, graph
from autotune.export.export import ExportRequest, export_trial
from autotune.export.formats import FORMATS
from autotune.export.predict import find_pictures, load
from autotune.export.result import ExportResult
from autotune.study.record import Record
from autotune.study.request import Resources, SearchRequest
from autotune.study.rows import ExportRow
from autotune.study.run import run_study

pytestmark = pytest.mark.slow
EVERY = ("int8", "pt2", "safetensors")


def exported(name: str = "s", resources: Resources | None = None, **asked: Any) -> ExportResult:
    return export_trial(name, ExportRequest(**asked), resources or Resources("cpu"), PlainConsole(quiet=True))


def rows(study: Path) -> list[ExportRow]:
    record = Record(study / "record.db")
    try:
        return record.exports()
    finally:
        record.close()


def test_every_format_is_verified_and_the_bundle_is_whole(finished: Path) -> None:
    result = exported(formats=EVERY, threshold=0.5)
    out = finished / "bundle"
    assert [row.format for row in result.files] == ["onnx", *EVERY]
    assert {row.verdict for row in result.files} == {"verified"}
    sizes = {row.format: row.bytes for row in result.files}
    assert sizes["int8"] <= 0.4 * sizes["onnx"]
    for row in result.files:
        assert row.n == sum(1 for line in (finished / "manifest.csv").open() if ",validation," in line)
        assert row.milliseconds_one_thread > 0
        assert row.milliseconds_all_threads > 0
    assert sorted(file.name for file in out.iterdir()) == sorted(
        [
            "bundle.json",
            "card.md",
            "labels.txt",
            "predict.py",
            "preprocessing.json",
            *(f.file for f in FORMATS.values()),
        ]
    )
    opened = bundle.open_bundle(out)
    assert (opened.labels, opened.threshold) == (("0", "1", "2"), 0.5)
    assert rows(finished)[0].facts == result.to_json()
    home = str(Path(__file__).parents[2]).encode()
    assert [file.name for file in out.iterdir() if home in file.read_bytes()] == []  # no path of this machine
    onnx.checker.check_model(onnx.load(out / "model.onnx"), full_check=True)
    assert result.calibration.answered["test"].n == sum(
        1 for line in (finished / "manifest.csv").open() if ",test," in line
    )
    assert not list(finished.glob(".bundle*"))


def test_the_card_is_a_hugging_face_card_and_says_the_scores(finished: Path) -> None:
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
    for said in ("model.onnx", "verified", "looked at once", "Expected calibration error", "autotune search"):
        assert said in text
    assert "{{" not in text
    assert str(finished.parent) not in text


def test_its_predict_py_answers_like_autotune_with_three_packages_alone(finished: Path, tmp_path: Path) -> None:
    exported()
    new = write_digits(tmp_path / "new", first=50, each=20)
    files = [str(file) for file in find_pictures([new])]
    hidden = "import sys; sys.modules.update(dict.fromkeys(('torch', 'autotune', 'torchvision', 'optuna', 'scipy')));"
    script = finished / "bundle" / "predict.py"
    run = (
        f"{hidden} import runpy; sys.argv = {[str(script), *files]!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    said = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    own = load(finished / "bundle").predict(files)
    assert said.stdout.splitlines() == [f"{one.path}\t{one.label}\t{one.probability:.4f}" for one in own]
    right = np.mean([Path(one.path).parent.name == one.label for one in own])
    assert right > 0.8


def test_the_study_and_its_bundle_answer_alike(finished: Path, tmp_path: Path) -> None:
    exported()
    new = write_digits(tmp_path / "new", first=50, each=10)
    ours, theirs = (load(source, Resources("cpu")).predict([new], 3) for source in ("s", finished / "bundle"))
    assert [one.label for one in ours] == [one.label for one in theirs]
    assert [one.probability for one in ours] == pytest.approx([one.probability for one in theirs], abs=1e-5)


def test_two_swapped_classes_are_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = graph.assemble_graph

    def swapped(*given: Any) -> graph.InferenceGraph:
        made = whole(*given)
        with torch.no_grad():
            made.head.weight[[0, 1]] = made.head.weight[[1, 0]].clone()
            made.head.bias[[0, 1]] = made.head.bias[[1, 0]].clone()
        return made

    monkeypatch.setattr(graph, "assemble_graph", swapped)
    with pytest.raises(
        BundleError, match=r"model\.onnx is not handed over.*answered otherwise.*\.png: . 0\.\d+ became"
    ):
        exported()
    assert not (finished / "bundle").exists()
    assert rows(finished) == []
    assert not list(finished.glob(".bundle*"))


def test_a_shifted_mean_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = graph.assemble_graph

    def shifted(*given: Any) -> graph.InferenceGraph:
        made = whole(*given)
        made.mean += 0.02
        return made

    monkeypatch.setattr(graph, "assemble_graph", shifted)
    with pytest.raises(BundleError, match="is not handed over"):
        exported()
    assert not (finished / "bundle").exists()


def test_an_int8_that_loses_pictures_is_removed_and_the_rest_stands(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dulled(source: Path, file: Path, _: Any) -> None:
        model = onnx.load(source)
        bias = next(one for one in model.graph.initializer if one.name == "head.bias")
        values = onnx.numpy_helper.to_array(bias).copy()
        values[0] += 100
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(model, file)

    monkeypatch.setattr(graph, "write_int8", dulled)
    problem = exported(formats=("int8",)).refusal()
    assert problem
    assert "model.int8.onnx: it loses" in problem.problem
    assert not (finished / "bundle" / "model.int8.onnx").exists()
    assert "model.int8.onnx" in (finished / "bundle" / "card.md").read_text()
    bundle.open_bundle(finished / "bundle")


def test_a_network_that_is_not_the_trials_is_refused(finished: Path) -> None:
    record = Record(finished / "record.db")
    best = record.best()
    assert best
    record.close()
    db = Database(finished / "record.db")
    db.table("trials").update(best.number, {"value": 0.1})
    db.conn.commit()
    with pytest.raises(StudyError, match=r"scores .* the study measured 10\.0 %"):
        exported(trial=best.number)


def test_another_trial_can_be_exported_and_only_a_complete_one(finished: Path) -> None:
    record = Record(finished / "record.db")
    complete = [row.number for row in record.trials() if row.state == "complete"]
    record.close()
    assert exported(trial=complete[-1]).trial == complete[-1]
    with pytest.raises(StudyError, match="Trial 99 of study s is not there"):
        exported(trial=99, out=finished / "other")


def test_a_refit_trains_on_validation_too_and_says_whose_the_test_score_is(finished: Path) -> None:
    refit = exported(refit=True)
    assert refit.refit
    assert "the scores below are the\nearlier model's" in (finished / "bundle" / "card.md").read_text()
    plain = exported(out=finished / "plain")
    assert refit.calibration.temperature == pytest.approx(plain.calibration.temperature)
    one, other = ((finished / name / "model.onnx").read_bytes() for name in ("bundle", "plain"))
    assert one != other


def test_a_threshold_answers_unknown_below_it(finished: Path, tmp_path: Path) -> None:
    exported(threshold=0.999)
    model = load(finished / "bundle")
    noise = tmp_path / "noise.png"
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(noise)
    assert model.predict([noise])[0].label == "unknown"
    assert replace(model, threshold=0.0).predict([noise])[0].label in {"0", "1", "2"}


@pytest.mark.parametrize(
    ("asked", "kind", "problem"),
    [
        ({"formats": ("onxx",)}, ConfigError, "no format 'onxx'"),
        ({"threshold": 1.5}, ConfigError, "threshold of 1.5"),
        ({"threshold": 0.5, "precision": 0.9}, ConfigError, "both say"),
        ({"out": Path("studies")}, BundleError, "not an empty folder"),
        ({"out": Path("studies/s/record.db/x")}, BundleError, "cannot be made"),
    ],
)
def test_bad_requests_are_two_lines(finished: Path, asked: dict[str, Any], kind: type, problem: str) -> None:
    with pytest.raises(kind, match=problem) as error:
        exported(**asked)
    assert isinstance(error.value, AutotuneError)
    assert error.value.fix
    assert rows(finished) == []


def test_a_missing_runtime_names_the_extra(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxscript"):
        with monkeypatch.context() as hidden:
            hidden.setitem(sys.modules, name, None)
            with pytest.raises(BundleError, match=f"{name} is not installed") as error:
                exported()
        assert "autotune-vision[export]" in error.value.fix
    assert not (finished / "bundle").exists()


def test_a_study_without_a_finished_trial_has_nothing_to_export(here: Path) -> None:
    (here / "studies" / "empty").mkdir(parents=True)
    Record(here / "studies" / "empty" / "record.db").close()
    with pytest.raises(StudyError, match="no complete trial"):
        exported("empty")


def test_validation_pictures_that_changed_stop_the_export(finished: Path, searched: Path) -> None:
    record = Record(finished / "record.db")
    moved = shutil.copytree(record.facts().root, finished / "moved")
    record.keep_facts(root=str(moved))
    record.close()
    line = next(line for line in (finished / "manifest.csv").open() if ",validation," in line)
    (Path(moved) / line.split(",")[0]).unlink()
    with pytest.raises(AutotuneError, match=r"Validation picture .* cannot be read"):
        exported()
    assert not (finished / "bundle").exists()


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", "small_cnn", "resnet18"])
def test_every_bundled_backbone_passes_in_float32_and_int8_passes_or_is_refused(
    here: Path, tmp_path: Path, backbone: str
) -> None:
    """ResNet-18's own weights are a download; random ones make the same graph."""
    data, weights = write_digits(tmp_path / "digits3"), tmp_path / "weights"
    flags = {"epochs": 2, "backbone": [backbone], "pixels": [32 if backbone == "small_cnn" else 64]}
    if backbone == "resnet18":
        weights.mkdir()
        torch.manual_seed(0)
        torch.save(resnet18().state_dict(), weights / "resnet18.pth")
    resources = Resources("cpu", weights if backbone == "resnet18" else None)
    request = SearchRequest(data=data, name="b", trials=2, flags=flags, device="cpu", weights=resources.weights)
    run_study(request, PlainConsole(quiet=True))
    result = exported("b", resources, formats=EVERY)
    verdicts = {row.format: row.verdict for row in result.files}
    assert {name: said for name, said in verdicts.items() if name != "int8"} == dict.fromkeys(
        ("onnx", "pt2", "safetensors"), "verified"
    )
    assert (here / "studies/b/bundle/model.int8.onnx").exists() == (verdicts["int8"] == "verified")
    assert json.loads((here / "studies/b/bundle/bundle.json").read_text())["study"] == "b"
