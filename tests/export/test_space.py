"""A Hugging Face Space from a bundle, started as the Hub would start it, and asked over HTTP."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from served import picture, write_bundle

from autotune.errors import BundleError
from autotune.export.predict import load
from autotune.export.space import write_space


@pytest.fixture
def space(tmp_path: Path) -> Path:
    write_space(write_bundle(tmp_path / "bundle"), tmp_path / "space")
    return tmp_path / "space"


def test_a_space_has_what_the_hub_reads(space: Path) -> None:
    assert {file.name for file in space.iterdir()} == {
        "README.md", "app.py", "requirements.txt", ".gitattributes", "model"
    }  # fmt: skip
    header = space.joinpath("README.md").read_text(encoding="utf-8").split("---")[1]
    assert re.search(r'^sdk: "gradio"$', header, re.M)
    assert re.search(r'^sdk_version: "\d+\.\d+\.\d+"$', header, re.M)
    assert re.search(r'^app_file: "app.py"$', header, re.M)
    assert "onnxruntime" in (space / "requirements.txt").read_text()
    assert load(space / "model").labels == load(space.parent / "bundle").labels


def test_a_folder_with_other_files_is_kept_and_a_space_is_replaced(space: Path, tmp_path: Path) -> None:
    (space / ".git").mkdir()
    write_space(tmp_path / "bundle", space)
    assert (space / ".git").is_dir()
    (space / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"has files that are not of a Space, such as notes.txt"):
        write_space(tmp_path / "bundle", space)
    changed = write_bundle(tmp_path / "changed")
    (changed / "labels.txt").write_text("x\n")
    with pytest.raises(BundleError, match="has changed since the export"):
        write_space(changed, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_space_replaces_neither_another_app_nor_another_model_nor_the_bundle(tmp_path: Path) -> None:
    made = write_bundle(tmp_path / "bundle")
    own = tmp_path / "own"
    (own / "model").mkdir(parents=True)
    (own / "model" / "weights.bin").write_bytes(b"mine")
    with pytest.raises(BundleError, match="such as model"):
        write_space(made, own)
    (own / "model" / "weights.bin").unlink()
    (own / "model").rmdir()
    (own / "app.py").write_text("import gradio  # mine\n")
    with pytest.raises(BundleError, match=r"such as app\.py"):
        write_space(made, own)
    for overlapping in (tmp_path, made, made / "space"):
        with pytest.raises(BundleError, match="overlap"):
            write_space(made, overlapping)
    assert load(made).labels


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_a_space_answers_as_the_bundle_does(space: Path, tmp_path: Path) -> None:
    client_of = pytest.importorskip("gradio_client")
    pytest.importorskip("gradio")
    files = []
    for level in (5, 125, 250):
        files.append(tmp_path / f"{level}.png")
        files[-1].write_bytes(picture(level))
    around = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=around, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = ""
        while "http://" not in line:
            line = process.stdout.readline()
            assert line
        client = client_of.Client(re.search(r"http://\S+", line)[0], verbose=False)  # type: ignore[index]
        for file, expected in zip(files, load(space / "model").predict(files), strict=True):
            answer, scores = client.predict(client_of.handle_file(file), api_name="/classify")
            assert answer == expected.label
            found = {row["label"]: row["confidence"] for row in scores["confidences"]}
            assert found == pytest.approx(dict(load(space / "model").predict(file, top=3)[0].top), abs=1e-5)
    finally:
        process.terminate()
        process.wait()
