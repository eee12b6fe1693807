"""Proof: that an exported model answers as the trained one did, on every validation picture, before handing over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BundleError
from autotune.export.runner import InferenceJob, run_job

MOST_DIFFERENCE = 1e-3  # in a probability, for float32
MOST_LOST = 0.01  # of the pictures, net, for int8; or two, if that is more
SHOWN = 3
PROVEN = "proven"

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class VerifiedFile:
    """One format's line in the proof. changed: pictures whose answer is another. right, n: of the validation part."""

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


@dataclass(frozen=True)
class Reference:
    """What every format is held against. probabilities: (N, C) of the trained network; labels: (N,), class numbers."""

    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    probabilities: Probabilities

    @property
    def right(self) -> int:
        return int(np.sum(self.probabilities.argmax(1) == self.labels))


def verify_file(task: InferenceJob, reference: Reference, root: Path) -> VerifiedFile:
    """Run a format over the whole validation part, on all threads and on one. The verdict says if it is proven."""
    paths = tuple(str(root / path) for path in reference.paths)
    every = run_job(replace(task, paths=paths))
    said, answered = reference.probabilities.argmax(1), every.probabilities.argmax(1)
    return VerifiedFile(
        format=task.format,
        file=Path(task.file).name,
        bytes=Path(task.file).stat().st_size,
        largest_difference=float(np.abs(every.probabilities - reference.probabilities).max()),
        changed=int(np.sum(said != answered)),
        right=int(np.sum(answered == reference.labels)),
        n=len(reference.labels),
        milliseconds_one_thread=every.milliseconds_one_thread,
        milliseconds_all_threads=every.milliseconds_all_threads,
        peak_bytes=every.peak_bytes,
        verdict=verdict(task.format, reference, every.probabilities),
    )


def verdict(format: str, reference: Reference, found: Probabilities) -> str:
    """PROVEN, or what speaks against it, picture by picture."""
    if not np.isfinite(found).all():
        return "it gives probabilities that are no numbers"
    said, answered = reference.probabilities.argmax(1), found.argmax(1)
    if format == "int8":
        lost = reference.right - int(np.sum(answered == reference.labels))
        allowed = max(MOST_LOST * len(said), 2)
        worse = np.flatnonzero((said == reference.labels) & (answered != reference.labels))
        if lost <= allowed:
            return PROVEN
        return f"it loses {lost} of {len(said)} pictures, {allowed:g} are allowed ({_told(reference, found, worse)})"
    difference = np.abs(found - reference.probabilities).max(1)
    far = np.flatnonzero((difference > MOST_DIFFERENCE) | ((said != answered) & ~_is_tie(reference.probabilities)))
    if not len(far):
        return PROVEN
    worst = far[np.argsort(-difference[far], kind="stable")]
    return (
        f"{len(far)} of {len(said)} pictures are answered otherwise, by up to {difference.max():.3g} in probability "
        f"where {MOST_DIFFERENCE:g} is allowed ({_told(reference, found, worst)})"
    )


def refuse_unverified(row: VerifiedFile) -> None:
    """Raise BundleError where a format is not proven."""
    if row.verdict != PROVEN:
        raise BundleError(
            f"{row.file} is not handed over: {row.verdict}.",
            "Export another trial, or report this one: --trial N",
        )


def _is_tie(probabilities: Probabilities) -> NDArray[np.bool_]:
    """Where the two likeliest answers are closer than the tolerance can tell apart."""
    top = np.sort(probabilities, 1)[:, -2:]
    found: NDArray[np.bool_] = top[:, 1] - top[:, 0] <= 2 * MOST_DIFFERENCE
    return found


def _told(reference: Reference, found: Probabilities, places: Sequence[int] | NDArray[np.int64]) -> str:
    def answer(row: Probabilities) -> str:
        return f"{reference.names[int(row.argmax())]} {row.max():.4f}"

    lines = [
        f"{reference.paths[i]}: {answer(reference.probabilities[i])} became {answer(found[i])}" for i in places[:SHOWN]
    ]
    return "; ".join(lines) + ("; ..." if len(places) > SHOWN else "")
