"""Reports of a running trial, and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

# Reasons for the end of a trial. Except for PRUNED, the trial is complete and has a best epoch.
DONE, GAP, DIVERGED, PRUNED, TIMEOUT = "done", "gap", "diverged", "pruned", "timeout"


class OutOfTimeError(Exception):
    """The time limit of a task has passed."""


@dataclass(frozen=True)
class Epoch:
    """One row of a trial's curve. number: from 1. rate: learning rate.

    train, validation: the metric, in evaluation mode and without augmentation. gap: train minus validation, smoothed.
    cycle_end: the pruner receives only these rows.
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
    """A trained trial. value, log_loss: of its best epoch, on the validation set. ended: one of the reasons above.

    checkpoint: tail and head of the best epoch, as the content of a safetensors file; None if pruned.
    seconds: in total, including cache_seconds for the feature cache. n_parts: of a batch, computed one after another;
    more than 1 if the memory was not enough for a whole batch.
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
    n_parts: int = 1


@dataclass(frozen=True)
class ProbeOutcome:
    """A fitted linear probe. value: on the validation set. head: its weights, as the content of a safetensors file.

    log_loss: of probes with the same penalty, each on the fold that it was not fitted on.
    by_picture, by_visit: the metric of such probes, on folds of pictures and of visits; None if visits are not known.
    look_alikes: by class number, the digests of pictures that look like one scene, for classes of which most do.
    seconds: of the fit. cache_seconds: of filling the feature cache before the fit.
    """

    value: float
    log_loss: float
    head: bytes
    seconds: float
    cache_seconds: float
    by_picture: float | None = None
    by_visit: float | None = None
    look_alikes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class FoldEpoch:
    """One epoch of a network of the finals, which is not evaluated. number: from 1."""

    number: int
    epochs: int
    loss: float


@dataclass(frozen=True)
class FoldOutcome:
    """A network of the finals. ended: DONE, DIVERGED or TIMEOUT; only a DONE one has content.

    logits: of the pictures held out, as the content of a safetensors file with `logits` (N, C), in the order of
    `TrialContext.held_out`. checkpoint: tail and head, as the content of a safetensors file. n_parts: as in
    TrialOutcome.
    """

    ended: str
    epochs: int
    logits: bytes
    checkpoint: bytes
    seconds: float
    cache_seconds: float
    n_parts: int = 1


@dataclass(frozen=True)
class SoupOutcome:
    """The mean of the weights of several networks, as the content of a safetensors file.

    It is compared with the mean probability of the networks on the pool and on augmented views of it. divergence: mean
    Kullback-Leibler divergence, in nats. changed: share of changed predictions. Both of the worse of the two.
    """

    checkpoint: bytes
    divergence: float
    changed: float
    seconds: float


class Timer(Protocol):
    """Knows the time limit of a task."""

    def check_time(self) -> None:
        """Raise OutOfTimeError if the time limit has passed. Called after every batch."""


class CacheReporter(Timer, Protocol):
    """Receiver of the progress of filling the feature cache."""

    def cache_progress(self, done: int, total: int) -> None:
        """Report the progress in pictures. Raises OutOfTimeError as `check_time`."""


class Reporter(CacheReporter, Protocol):
    """Receiver of training progress."""

    def epoch(self, row: Epoch) -> str | None:
        """Report an epoch. Returns None to continue, or the reason to stop: PRUNED or TIMEOUT."""


class FoldReporter(CacheReporter, Protocol):
    """Receiver of training progress in the finals."""

    def epoch(self, row: FoldEpoch) -> str | None:
        """Report an epoch. Returns None to continue, or TIMEOUT to stop."""
