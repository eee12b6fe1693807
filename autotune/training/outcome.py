"""What a trial reports while it trains, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

# Why a trial ended. Each but PRUNED leaves it complete, with its best epoch.
DONE, GAP, DIVERGED, PRUNED, TIMEOUT = "done", "gap", "diverged", "pruned", "timeout"


@dataclass(frozen=True)
class Epoch:
    """One row of a trial's curve. number: from 1. train, validation: the metric, in evaluation mode, unaugmented.

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
    """A trained trial. value, log_loss: of its best epoch on validation. ended: one of the reasons above.

    checkpoint: the best epoch's tail and head, as the content of a safetensors file; None where it was pruned.
    seconds: in all, of which cache_seconds for the feature cache.
    """

    value: float
    log_loss: float
    best_epoch: int
    epochs: int
    ended: str
    trained_parameters: int
    checkpoint: bytes | None
    seconds: float
    cache_seconds: float


@dataclass(frozen=True)
class ProbeOutcome:
    """A fitted linear probe. value: on validation. head: its weights, as the content of a safetensors file.

    seconds: of the fit. cache_seconds: of the feature cache, before it.
    """

    value: float
    head: bytes
    seconds: float
    cache_seconds: float


class Reporter(Protocol):
    """Where training sends its progress."""

    def epoch(self, row: Epoch) -> str | None:
        """Report an epoch. Returns None to go on, or why to stop: PRUNED or TIMEOUT."""

    def cache_progress(self, done: int, total: int) -> None:
        """Report progress of the feature cache, in pictures."""
