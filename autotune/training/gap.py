"""The gap between training and validation, and the rule that stops a trial by it. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.training.metrics import smooth
from autotune.training.outcome import Epoch

LEAST_GROWTH = 0.01  # of the gap, to call it growing


def is_better(row: Epoch, other: Epoch) -> bool:
    """Compare by the metric, then by a lower cross-entropy."""
    return (row.validation, -row.log_loss) > (other.validation, -other.log_loss)


def smoothed_gap(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Return train minus validation, each smoothed with weight 0.8, for a curve of (train, validation)."""
    train, validation = (smooth([pair[i] for pair in pairs]) for i in (0, 1))
    return [a - b for a, b in zip(train, validation, strict=True)]


def best_index(rows: Sequence[Epoch]) -> int:
    """Return the index of the best epoch."""
    found = 0
    for index, row in enumerate(rows):
        if is_better(row, rows[found]):
            found = index
    return found


def stops_on_gap(rows: Sequence[Epoch], patience: int, cycle_epochs: int, most: float) -> bool:
    """Return whether a trial overfits: no epoch was better for `patience` epochs (at least one cycle), and the smoothed
    gap exceeds `most` or has grown over these epochs.
    """
    window = max(patience, cycle_epochs)
    if best_index(rows) >= len(rows) - window:
        return False
    grown = rows[-1].gap - max(rows[-1 - window].gap, 0.0)
    return rows[-1].gap > most or grown >= LEAST_GROWTH


def first_stop(rows: Sequence[Epoch], patience: int, cycle_epochs: int, most: float) -> int | None:
    """Return the number of epochs after which the rule stops a trial; None if it never does before the last one."""
    lengths = range(1, len(rows))
    return next((n for n in lengths if stops_on_gap(rows[:n], patience, cycle_epochs, most)), None)
