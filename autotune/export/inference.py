"""Inference: a written model is run over pictures in a process of its own, with nothing of this one's memory."""

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
    """A written model. backbone, plugins: for formats whose file holds weights alone."""

    path: Path
    backbone: str
    plugins: tuple[Path, ...]


@dataclass(frozen=True)
class InferenceJob:
    """A written model, and the pictures to classify with it."""

    format: ExportFormat
    model: ModelFile
    pixels: int
    interpolation: str
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class InferenceResult:
    """probabilities: (N, C). milliseconds: of the median picture, decoding included, one at a time. peak_bytes: of the
    process on all threads; None where the system does not tell.
    """

    probabilities: NDArray[np.float32]
    milliseconds_all_threads: float
    milliseconds_one_thread: float
    peak_bytes: int | None


def run_job(job: InferenceJob) -> InferenceResult:
    """Answer every picture, in the process of `runner`. Raises BundleError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        job_file, result_file = Path(folder, "job"), Path(folder, "result")
        job_file.write_bytes(pickle.dumps(job))
        command = [sys.executable, "-P", "-m", "autotune.export.runner", str(job_file), str(result_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise BundleError(
                f"The {job.format.name} model does not run: {last}", "Leave this format out, or export another trial."
            )
        result: InferenceResult = pickle.loads(result_file.read_bytes())
        return result
