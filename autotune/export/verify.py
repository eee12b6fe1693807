"""Verification: an exported model must classify every validation picture as the trained network does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.errors import BundleError
from autotune.formats.inference import InferenceJob, run_job
from autotune.formats.onnx_session import Outputs
from autotune.formats.tolerance import Reference, Tolerance

VERIFIED = "verified"  # the verdict of a model within the tolerance of its format; records contain it
NOT_RUN = "not verified here"  # the verdict of a model whose runtime needs another system


@dataclass(frozen=True)
class VerifiedFile:
    """The measurements of one format. changed: changed predictions. right: correct predictions, of n on validation.

    What was not measured is None: everything but the bytes, where the runtime needs another system.
    """

    format: str
    file: str
    bytes: int
    n: int
    verdict: str
    largest_difference: float | None = None
    changed: int | None = None
    right: int | None = None
    milliseconds_one_thread: float | None = None
    milliseconds_all_threads: float | None = None
    peak_bytes: int | None = None

    @property
    def is_verified(self) -> bool:
        return self.verdict == VERIFIED

    @property
    def is_rejected(self) -> bool:
        return self.verdict not in (VERIFIED, NOT_RUN)

    @property
    def word(self) -> str:
        """The verdict without its reasons."""
        return "rejected" if self.is_rejected else self.verdict


def verify_file(job: InferenceJob, reference: Reference) -> VerifiedFile:
    """Run an exported model on the pictures of the reference and compare the predictions."""
    name, n = job.model.path.name, len(reference.labels)
    n_bytes = sum(job.model.path.with_name(name).stat().st_size for name in job.format.files)
    if not job.format.runs_here:
        return VerifiedFile(job.format.name, name, n_bytes, n, NOT_RUN)
    result = run_job(job)
    found = result.outputs
    predicted = found.probabilities.argmax(1)
    return VerifiedFile(
        format=job.format.name,
        file=name,
        bytes=n_bytes,
        largest_difference=float(np.abs(found.probabilities - reference.probabilities).max()),
        changed=int(np.sum(reference.predicted != predicted)),
        right=reference.count_correct(predicted),
        n=n,
        milliseconds_one_thread=result.milliseconds_one_thread,
        milliseconds_all_threads=result.milliseconds_all_threads,
        peak_bytes=result.peak_bytes,
        verdict=verdict(job.format.tolerance, reference, found),
    )


def verdict(tolerance: Tolerance, reference: Reference, found: Outputs) -> str:
    """Return VERIFIED, or why a model with these outputs is rejected."""
    if not np.isfinite(found.probabilities).all():
        return "its probabilities are not finite"
    if reason := tolerance.rejection(reference, found.probabilities):
        return reason
    if found.distances is not None and reference.distances is not None:
        apart = float(np.abs(found.distances - reference.distances).max() / max(1, reference.distances.max()))
        if not apart <= tolerance.distance:  # also if it is not a number
            return f"its distances differ by up to {apart:.3g}, where {tolerance.distance:g} is allowed"
    return VERIFIED


def require_verified(row: VerifiedFile) -> None:
    """Raise BundleError if a model is not verified."""
    if row.is_rejected:
        raise BundleError(
            f"{row.file} was rejected: {row.verdict}.",
            "Export another trial with --trial N, or report a bug.",
        )
