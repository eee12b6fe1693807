"""Inference: run an exported model on pictures in a new process, which shares no memory with this one."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import BundleError
from autotune.formats.onnx_session import Outputs
from autotune.formats.table import ExportFormat


@dataclass(frozen=True)
class ModelFile:
    """The file of an exported model. backbone, plugins: for formats that contain only weights."""

    path: Path
    backbone: str
    plugins: tuple[Path, ...]


@dataclass(frozen=True)
class InferenceJob:
    """An exported model and the pictures to classify with it."""

    format: ExportFormat
    model: ModelFile
    pixels: int
    interpolation: str
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class InferenceResult:
    """outputs: of all pictures. milliseconds: of the median picture, one at a time, including decoding. peak_bytes: of
    the process on all threads; None if the system does not report it.
    """

    outputs: Outputs
    milliseconds_all_threads: float
    milliseconds_one_thread: float
    peak_bytes: int | None


@dataclass(frozen=True)
class TimingJob:
    """An exported model to time on one thread."""

    format: ExportFormat
    model: ModelFile
    pixels: int


def run_job(job: InferenceJob) -> InferenceResult:
    """Classify every picture in a `runner` process. Raises BundleError if it fails."""
    result: InferenceResult = _run(job)
    return result


def time_network(job: TimingJob) -> float:
    """Return the milliseconds of the median run on one picture, decoded before. Raises BundleError if it fails."""
    milliseconds: float = _run(job)
    return milliseconds


def _run(job: InferenceJob | TimingJob) -> Any:
    """Return what the `runner` process makes of a job."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, result_file = Path(folder, "job"), Path(folder, "result")
        job_file.write_bytes(pickle.dumps(job))
        command = [sys.executable, "-P", "-m", "autotune.formats.runner", str(job_file), str(result_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise BundleError(
                f"The {job.format.name} model cannot be run: {last}", "Omit this format, or export another trial."
            )
        return pickle.loads(result_file.read_bytes())
