"""Verification: an exported model has to answer every validation picture as the trained network does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BundleError
from autotune.export.inference import InferenceJob, run_job
from autotune.export.tolerance import Tolerance

VERIFIED = "verified"  # the verdict of a model that is within its format's tolerance, as records keep it

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """What the trained network answers for the validation pictures.

    paths: relative to root. labels: (N,), class numbers. names: of the classes. probabilities: (N, C), calibrated.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    probabilities: Probabilities

    @property
    def answers(self) -> NDArray[np.int64]:
        """The likeliest class (N,)."""
        found: NDArray[np.int64] = self.probabilities.argmax(1)
        return found

    @property
    def right(self) -> int:
        return self.count_right(self.answers)

    def count_right(self, answers: NDArray[np.int64]) -> int:
        return int((answers == self.labels).sum())


@dataclass(frozen=True)
class VerifiedFile:
    """What was measured of one format. changed: pictures whose answer is another. right, n: of the validation part."""

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
    """Run a written model over the reference's pictures, and compare."""
    result = run_job(job)
    answers = result.probabilities.argmax(1)
    return VerifiedFile(
        format=job.format.name,
        file=job.model.path.name,
        bytes=job.model.path.stat().st_size,
        largest_difference=float(np.abs(result.probabilities - reference.probabilities).max()),
        changed=int(np.sum(reference.answers != answers)),
        right=reference.count_right(answers),
        n=len(reference.labels),
        milliseconds_one_thread=result.milliseconds_one_thread,
        milliseconds_all_threads=result.milliseconds_all_threads,
        peak_bytes=result.peak_bytes,
        verdict=verdict(job.format.tolerance, reference, result.probabilities),
    )


def verdict(tolerance: Tolerance, reference: Reference, found: Probabilities) -> str:
    """VERIFIED, or why a model that gives these probabilities (N, C) is refused."""
    if not np.isfinite(found).all():
        return "it gives probabilities that are no numbers"
    return tolerance.refusal(reference, found) or VERIFIED


def refuse_unverified(row: VerifiedFile) -> None:
    """Raise BundleError where a model is not verified."""
    if not row.is_verified:
        raise BundleError(
            f"{row.file} is not handed over: {row.verdict}.",
            "Export another trial, or report this one: --trial N",
        )
