"""Inference: run an exported model on pictures in a new process, which shares no memory with this one."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BundleError
from autotune.export.formats import ExportFormat


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
    """probabilities: (N, C). milliseconds: of the median picture, one at a time, including decoding. peak_bytes: of the
    process on all threads; None if the system does not report it.
    """

    probabilities: NDArray[np.float32]
    milliseconds_all_threads: float
    milliseconds_one_thread: float
    peak_bytes: int | None


def run_job(job: InferenceJob) -> InferenceResult:
    """Classify every picture in a `runner` process. Raises BundleError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, result_file = Path(folder, "job"), Path(folder, "result")
        job_file.write_bytes(pickle.dumps(job))
        command = [sys.executable, "-P", "-m", "autotune.export.runner", str(job_file), str(result_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise BundleError(
                f"The {job.format.name} model cannot be run: {last}", "Omit this format, or export another trial."
            )
        result: InferenceResult = pickle.loads(result_file.read_bytes())
        return result
