"""Formats of phones and small computers answer as the network does. Each test needs the extra of its format."""

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotune.data.decode import crop_square, decode_image
from autotune.errors import BundleError
from autotune.export.bundle import is_unchanged
from autotune.export.export import ExportRequest, export_trial
from autotune.export.predict import load
from autotune.formats import table
from autotune.formats.inference import ModelFile
from autotune.formats.onnx_session import Outputs
from autotune.formats.table import Extra, find_format
from autotune.study.listener import StudyListener
from autotune.study.request import Resources

MODULES = {"openvino": "openvino", "litert": "litert_torch", "executorch": "executorch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_a_format_of_phones_answers_as_the_network_does(name: str, finished: Path, tmp_path: Path) -> None:
    pytest.importorskip(MODULES[name])
    result = export_trial("s", ExportRequest(tmp_path / "bundle", (name,)), Resources("cpu"), StudyListener())
    row = next(one for one in result.files if one.format == name)
    assert (row.verdict, row.changed) == ("verified", 0)
    assert row.largest_difference is not None
    assert row.largest_difference < 1e-4
    assert is_unchanged(result.folder, "s")
    format = find_format(name)
    assert {*format.files} <= {file.name for file in result.folder.iterdir()}
    assert row.bytes == sum((result.folder / file).stat().st_size for file in format.files)
    model = load(result.folder)
    squares = np.stack([np.full((3, model.pixels, model.pixels), level, np.uint8) for level in (0, 99, 255)])
    run = format.load(ModelFile(result.folder / format.file, "quick_cnn", ()), 1)
    assert_alike(run(squares), model.run(squares))
    Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 48, 3)).save(
        tmp_path / "x.png"
    )
    square = crop_square(decode_image(tmp_path / "x.png"), model.pixels, model.interpolation)[None]
    assert_alike(run(square), model.run(square))


def assert_alike(found: Outputs, expected: Outputs) -> None:
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert found.distances == pytest.approx(expected.distances, rel=1e-4)


def test_a_package_that_needs_another_torch_is_named_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda package: ["torch<2.0,>=1.0", "numpy"])
    assert Extra("x", (), "numpy").clash() is not None
    text = str(Extra("x", (), "numpy").clash())
    assert "needs torch <2.0,>=1.0, and torch " in text
    monkeypatch.setattr(metadata, "requires", lambda package: ["torch>=1.0", "numpy"])
    assert Extra("x", (), "numpy").clash() is None


@pytest.mark.parametrize("name", MODULES)
def test_a_format_without_its_extra_is_refused_before_anything_is_written(
    name: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = find_format(name).extra
    assert extra
    monkeypatch.setattr(table, "find_spec", lambda module: None if module in extra.modules else module)
    with pytest.raises(BundleError, match=rf"is not installed. Format '{name}' requires it.\nInstall it with: pip"):
        export_trial("s", ExportRequest(tmp_path / "bundle", (name,)), Resources("cpu"), StudyListener())
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="there, it is verified like the others")
def test_core_ml_is_written_and_called_not_verified(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    result = export_trial("s", ExportRequest(tmp_path / "bundle", ("coreml",)), Resources("cpu"), StudyListener())
    row = result.files[-1]
    assert (row.format, row.verdict, row.right) == ("coreml", "not verified here", None)
    assert result.rejection() is None
    assert is_unchanged(result.folder, "s")
    assert row.bytes > 1000
    assert "not verified here" in (result.folder / "card.md").read_text()
    compile((result.folder / "check_coreml.py").read_text(), "check_coreml.py", "exec")


@pytest.mark.slow
def test_the_fixtures_of_a_bundle_are_what_its_script_computes(finished: Path, tmp_path: Path) -> None:
    bundle = export_trial("s", ExportRequest(tmp_path / "bundle"), Resources("cpu"), StudyListener()).folder
    numbers = json.loads((bundle / "fixtures.json").read_text())["pictures"]
    assert len(numbers) == 3
    names = [one["file"] for one in numbers]
    words = [sys.executable, str(bundle / "predict.py"), *(str(bundle / name) for name in names)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    labels = (bundle / "labels.txt").read_text().split()
    for line, one in zip(done.stdout.splitlines(), numbers, strict=True):
        best = int(np.argmax(one["probabilities"]))
        label = "unknown" if one["distance"] > 1 else labels[best]
        assert line.split("\t")[1:] == [label, f"{one['probabilities'][best]:.4f}"]
    pixels = load(bundle).pixels
    plain, turned = (decode_image(bundle / name) for name in names[:2])
    assert (plain.size, turned.size) == ((600, 400), (300, 450))
    # What phones get wrong gives other numbers: no antialiasing, no rotation.
    wrong = plain.crop((100, 0, 500, 400)).resize((pixels, pixels), Image.Resampling.NEAREST)
    assert abs(np.asarray(wrong).mean((0, 1)) - numbers[0]["pixels"]["mean"]).max() < 20
    row, column, *rgb = numbers[1]["pixels"]["values"][2]
    lying = crop_square(Image.open(bundle / names[1]).convert("RGB"), pixels, "bilinear")
    assert abs(lying[:, row, column].astype(int) - rgb).max() > 30
