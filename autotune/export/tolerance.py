"""Tolerances: how far an exported model may differ from the trained network on the validation pictures.

NumPy is not imported at run time: the command line reads the table of formats, which holds tolerances, for --help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from autotune.export.verify import Probabilities, Reference

N_EXAMPLES = 3  # pictures that a refusal names


class Tolerance(Protocol):
    """Decides whether probabilities (N, C) that an exported model gives are close enough to the reference."""

    def refusal(self, reference: Reference, found: Probabilities) -> str | None:
        """Why the model is refused, with examples; None where it is accepted."""
        ...


@dataclass(frozen=True)
class SameProbabilities:
    """No probability may differ by more than `difference`, and no answer may change unless the reference was a tie."""

    difference: float

    def refusal(self, reference: Reference, found: Probabilities) -> str | None:
        differences = abs(found - reference.probabilities).max(1)
        changed = (reference.answers != found.argmax(1)) & ~self._ties(reference)
        refused = ((differences > self.difference) | changed).nonzero()[0]
        if not len(refused):
            return None
        worst_first = refused[(-differences[refused]).argsort(kind="stable")]
        return (
            f"{len(refused)} of {len(found)} pictures are answered otherwise, by up to {differences.max():.3g} in "
            f"probability where {self.difference:g} is allowed ({_examples(reference, found, worst_first)})"
        )

    def _ties(self, reference: Reference) -> NDArray[np.bool_]:
        """Where the two likeliest answers (N,) are closer than the tolerance can tell apart."""
        ordered = reference.probabilities.copy()
        ordered.sort(1)
        ties: NDArray[np.bool_] = ordered[:, -1] - ordered[:, -2] <= 2 * self.difference
        return ties


@dataclass(frozen=True)
class FewLost:
    """Right answers lost, less those won, may be at most `share` of the pictures, or `pictures` if that is more."""

    share: float
    pictures: int

    def refusal(self, reference: Reference, found: Probabilities) -> str | None:
        answers = found.argmax(1)
        lost = reference.right - reference.count_right(answers)
        allowed = max(self.share * len(answers), self.pictures)
        if lost <= allowed:
            return None
        worse = ((reference.answers == reference.labels) & (answers != reference.labels)).nonzero()[0]
        return (
            f"it loses {lost} of {len(answers)} pictures, {allowed:g} are allowed "
            f"({_examples(reference, found, worse)})"
        )


def _examples(reference: Reference, found: Probabilities, places: Sequence[int] | NDArray[np.int64]) -> str:
    """The first few of the pictures at `places`, with what each answer was and became."""

    def answer(row: Probabilities) -> str:
        return f"{reference.names[int(row.argmax())]} {row.max():.4f}"

    lines = [
        f"{reference.paths[i]}: {answer(reference.probabilities[i])} became {answer(found[i])}"
        for i in places[:N_EXAMPLES]
    ]
    return "; ".join(lines) + ("; ..." if len(places) > N_EXAMPLES else "")
