"""Tolerances: how far an exported model may differ from the trained network on the validation pictures.

NumPy is not imported at run time: the command line reads the table of formats, which contains tolerances, for --help.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from autotune.text import plural

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Probabilities = NDArray[np.float32]

N_EXAMPLES = 3  # pictures listed in a rejection


@dataclass(frozen=True)
class Reference:
    """The predictions of the trained network for the validation pictures.

    paths: relative to root. labels: (N,), class numbers. names: of the classes. probabilities: (N, C), calibrated.
    distances: (N,), or None without a novelty score.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    probabilities: Probabilities
    distances: NDArray[np.float32] | None = None

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


class Tolerance(Protocol):
    """Decides whether the probabilities (N, C) of an exported model are close enough to the reference.

    distance: how far its distances may differ, as a share of the largest one or of 1.
    """

    @property
    def distance(self) -> float: ...

    def rejection(self, reference: Reference, found: Probabilities) -> str | None:
        """Return why the model is rejected, with examples; None if it is verified."""
        ...


@dataclass(frozen=True)
class SameProbabilities:
    """No probability may differ by more than `difference`, and no prediction may change unless it was a tie."""

    difference: float

    @property
    def distance(self) -> float:
        return self.difference

    def rejection(self, reference: Reference, found: Probabilities) -> str | None:
        differences = abs(found - reference.probabilities).max(1)
        changed = (reference.predicted != found.argmax(1)) & ~self._ties(reference)
        rejected = ((differences > self.difference) | changed).nonzero()[0]
        if not len(rejected):
            return None
        worst_first = rejected[(-differences[rejected]).argsort(kind="stable")]
        return (
            f"the predictions for {len(rejected)} of {plural(len(found), 'picture')} differ, with probabilities by up "
            f"to {differences.max():.3g}, where {self.difference:g} is allowed "
            f"({_examples(reference, found, worst_first)})"
        )

    def _ties(self, reference: Reference) -> NDArray[np.bool_]:
        """Return where the two highest probabilities are too close for the tolerance, (N,)."""
        ordered = reference.probabilities.copy()
        ordered.sort(1)
        ties: NDArray[np.bool_] = ordered[:, -1] - ordered[:, -2] <= 2 * self.difference
        return ties


@dataclass(frozen=True)
class FewLost:
    """Correct predictions lost, minus those gained, may be `share` of the pictures, or `pictures` if that is more."""

    share: float
    pictures: int
    distance: float = math.inf  # it measures none

    def rejection(self, reference: Reference, found: Probabilities) -> str | None:
        predicted = found.argmax(1)
        lost = reference.correct - reference.count_correct(predicted)
        allowed = max(self.share * len(predicted), self.pictures)
        if lost <= allowed:
            return None
        worse = ((reference.predicted == reference.labels) & (predicted != reference.labels)).nonzero()[0]
        return (
            f"{lost} fewer correct predictions on {plural(len(predicted), 'picture')}, where {allowed:g} are allowed "
            f"({_examples(reference, found, worse)})"
        )


def _examples(reference: Reference, found: Probabilities, places: Sequence[int] | NDArray[np.int64]) -> str:
    """Describe the first few pictures at `places`: the prediction of the reference and the one found."""

    def prediction(row: Probabilities) -> str:
        return f"{reference.names[int(row.argmax())]} {row.max():.4f}"

    lines = [
        f"{reference.paths[i]}: {prediction(reference.probabilities[i])} became {prediction(found[i])}"
        for i in places[:N_EXAMPLES]
    ]
    return "; ".join(lines) + ("; ..." if len(places) > N_EXAMPLES else "")
