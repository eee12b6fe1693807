"""The table of formats. Adding an entry is enough to add a format."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import run_command

from autotune.cli.live.console import PlainConsole
from autotune.errors import BundleError, ConfigError
from autotune.export.bundle import open_bundle
from autotune.export.export import ExportRequest, export_trial
from autotune.formats.graph import TracedModel
from autotune.formats.inference import InferenceJob, ModelFile, TimingJob, run_job, time_network
from autotune.formats.onnx_session import Run
from autotune.formats.table import FORMATS, ONNX, ExportFormat, Extra, find_format
from autotune.formats.tolerance import SameProbabilities
from autotune.study.request import Resources

ROOT = Path(__file__).parents[2]


def write_half(model: TracedModel, file: Path) -> None:
    state = {name: value.half() for name, value in model.graph.state_dict().items()}
    safetensors.torch.save_file(state, file)


HALF = ExportFormat(
    "half", "model.half.safetensors", write_half, FORMATS["safetensors"].load, SameProbabilities(difference=0.05)
)


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> ExportFormat:
    """An additional format in the table: weights in 16 bits."""
    monkeypatch.setitem(FORMATS, "half", HALF)
    # The process that runs the model imports this module.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    return HALF


def crash(model: ModelFile, threads: int) -> Run:
    """Load a model as a runtime does that crashes."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_runtime_that_crashes_in_its_process_is_two_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    fragile, model = replace(HALF, name="fragile", load=crash), ModelFile(tmp_path / "x", "quick_cnn", ())
    with pytest.raises(BundleError, match=r"The fragile model cannot be run: exit code -9\nOmit this format"):
        run_job(InferenceJob(fragile, model, 8, "bilinear", (tmp_path / "x.png",)))
    with pytest.raises(BundleError, match="exit code -9"):
        time_network(TimingJob(fragile, model, 8))


def test_each_entry_has_a_unique_name_and_file() -> None:
    assert [entry.name for entry in FORMATS.values()] == list(FORMATS)
    assert len({entry.file for entry in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_the_extra_of_a_format_is_declared_and_installs_its_modules(name: str) -> None:
    extra = FORMATS[name].extra
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if extra is not None:
        names = {re.split("[<>=]", one)[0].replace("-", "_") for one in declared[extra.name]}
        assert set(extra.modules) == names - {"autotune_vision[export]"}
        for module in extra.modules:
            pytest.importorskip(module)
    FORMATS[name].require_modules()


def test_an_unknown_format_suggests_the_nearest() -> None:
    assert find_format("int8") is FORMATS["int8"]
    with pytest.raises(ConfigError, match="No format named 'onxx'") as error:
        find_format("onxx")
    assert error.value.fix == "Did you mean 'onnx'?"


def test_the_table_is_read_without_importing_numpy_torch_or_onnx() -> None:
    code = (
        "import sys, autotune.cli.app, autotune.formats.table\n"
        "print([name for name in ('numpy', 'torch', 'onnx', 'onnxruntime') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_help_lists_every_optional_format() -> None:
    text = run_command("export", "--help", columns=200).stdout
    *others, last = (name for name in FORMATS if name != ONNX.name)
    assert f"{', '.join(others)} or {last}, in addition to onnx" in text


def test_the_error_for_a_missing_module_names_the_extra_before_the_study_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = replace(HALF, extra=Extra("half", ("no_such_module",)))
    monkeypatch.setitem(FORMATS, "half", entry)
    with pytest.raises(BundleError, match="no_such_module is not installed") as error:
        export_trial("no-such-study", ExportRequest(formats=("half",)), Resources("cpu"), PlainConsole(quiet=True))
    assert error.value.fix == "Install it with: pip install 'autotune-vision[half]'"


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_a_new_format_is_written_verified_and_reported(finished: Path, half: ExportFormat) -> None:
    done = run_command("export", "s", "--format", "half", columns=200)
    assert done.returncode == 0, done.stderr
    row = re.search(r"^model\.half\.safetensors .* verified *$", done.stdout, re.MULTILINE)
    assert row, done.stdout
    assert " 0.0e+00 " not in row[0]  # not the float32 model
    out = finished / "bundle"
    state = safetensors.torch.load_file(out / half.file)
    assert {value.dtype for value in state.values()} == {torch.float16}
    assert half.file in (out / "bundle.json").read_text()
    assert f"| {half.file} |" in (out / "card.md").read_text()
    assert open_bundle(out).model == out / ONNX.file
    with pytest.raises(BundleError, match="is not an ONNX model"):
        open_bundle(out / half.file)


@pytest.mark.in_make_faults
@pytest.mark.slow
def test_a_new_format_is_rejected_outside_its_tolerance(
    finished: Path, half: ExportFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "half", replace(half, tolerance=SameProbabilities(difference=1e-7)))
    done = run_command("export", "s", "--format", "half", columns=200)
    assert done.returncode == 1
    assert re.search(r"^model\.half\.safetensors .* rejected *$", done.stdout, re.MULTILINE)
    assert "where 1e-07 is allowed" in done.stderr
    assert (finished / "bundle" / ONNX.file).is_file()
    assert not (finished / "bundle" / half.file).exists()
