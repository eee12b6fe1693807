"""Verification: an exported model must classify every validation picture as the trained network does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BundleError
from autotune.export.inference import InferenceJob, run_job
from autotune.export.tolerance import Tolerance

VERIFIED = "verified"  # the verdict of a model within the tolerance of its format; records contain it

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """The predictions of the trained network for the validation pictures.

    paths: relative to root. labels: (N,), class numbers. names: of the classes. probabilities: (N, C), calibrated.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    probabilities: Probabilities

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable classes (N,)."""
        found: NDArray[np.int64] = self.probabilities.argmax(1)
        return found

    @property
    def correct(self) -> int:
        return self.count_correct(self.predicted)

    def count_correct(self, predicted: NDArray[np.int64]) -> int:
        return int((predicted == self.labels).sum())


@dataclass(frozen=True)
class VerifiedFile:
    """The measurements of one format. changed: changed predictions. right: correct predictions, of n on validation."""

    format: str
    file: str
    bytes: int
    largest_difference: float
    changed: int
    right: int
    n: int
    milliseconds_one_thread: float
    milliseconds_all_threads: float
    peak_bytes: int | None
    verdict: str

    @property
    def is_verified(self) -> bool:
        return self.verdict == VERIFIED


def verify_file(job: InferenceJob, reference: Reference) -> VerifiedFile:
    """Run an exported model on the pictures of the reference and compare the predictions."""
    result = run_job(job)
    predicted = result.probabilities.argmax(1)
    return VerifiedFile(
        format=job.format.name,
        file=job.model.path.name,
        bytes=job.model.path.stat().st_size,
        largest_difference=float(np.abs(result.probabilities - reference.probabilities).max()),
        changed=int(np.sum(reference.predicted != predicted)),
        right=reference.count_correct(predicted),
        n=len(reference.labels),
        milliseconds_one_thread=result.milliseconds_one_thread,
        milliseconds_all_threads=result.milliseconds_all_threads,
        peak_bytes=result.peak_bytes,
        verdict=verdict(job.format.tolerance, reference, result.probabilities),
    )


def verdict(tolerance: Tolerance, reference: Reference, found: Probabilities) -> str:
    """Return VERIFIED, or why a model with these probabilities (N, C) is rejected."""
    if not np.isfinite(found).all():
        return "its probabilities are not finite"
    return tolerance.rejection(reference, found) or VERIFIED


def require_verified(row: VerifiedFile) -> None:
    """Raise BundleError if a model is not verified."""
    if not row.is_verified:
        raise BundleError(
            f"{row.file} was rejected: {row.verdict}.",
            "Export another trial with --trial N, or report a bug.",
        )
