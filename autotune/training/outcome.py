"""What a trial reports and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

# Why a trial ended. Each but PRUNED leaves it complete, with its best epoch.
DONE, GAP, DIVERGED, PRUNED, TIMEOUT = "done", "gap", "diverged", "pruned", "timeout"


@dataclass(frozen=True)
class Epoch:
    """One row of a curve. number: from 1. train, validation: the metric, in evaluation mode, unaugmented.

    gap: train minus validation, smoothed. cycle_end: the only rows the pruner sees.
    """

    number: int
    rate: float
    loss: float
    train: float
    validation: float
    log_loss: float
    gap: float
    cycle_end: bool
    seconds: float


@dataclass(frozen=True)
class TrialOutcome:
    """A trained trial. value, log_loss: of its best epoch on validation. checkpoint: a file in the study's folder."""

    value: float
    log_loss: float
    best_epoch: int
    epochs: int
    ended: str
    trained_parameters: int
    checkpoint: str | None
    seconds: float
    cache_seconds: float


@dataclass(frozen=True)
class ProbeOutcome:
    value: float
    seconds: float
    cache_seconds: float


class Reporter(Protocol):
    """A worker's line to the driver."""

    def epoch(self, row: Epoch) -> str | None:
        """Report an epoch. The answer is None for "go on", or why to stop: PRUNED or TIMEOUT."""

    def banking(self, done: int, total: int) -> None:
        """Report progress of the bank, in pictures."""
