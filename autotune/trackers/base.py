"""What a tracker is told, and the table of trackers. To add one, write a module like `mlflow` and an entry here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from autotune.errors import ConfigError, did_you_mean
from autotune.training.params import Value

PROJECT = "autotune"  # the default experiment or project; each tracker has a variable for another one


@dataclass(frozen=True)
class StudyBegun:
    """A study has started or is resumed. id: unique, also among studies of one name. settings: as plain values."""

    id: str
    study: str
    folder: Path
    settings: Mapping[str, Value]


@dataclass(frozen=True)
class TrialBegun:
    number: int
    params: Mapping[str, Value]


@dataclass(frozen=True)
class EpochEnded:
    """values: by name, e.g. accuracy/validation. step: the number of the epoch, from 1."""

    number: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class TrialEnded:
    """state: COMPLETE, PRUNED or FAILED. ended: why. values: its scores."""

    number: int
    state: str
    ended: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class StudyEnded:
    """values: the scores of the study. words: facts in text. report, bundle: a file and a folder; None if missing.

    is_complete: False if the search was interrupted.
    """

    is_complete: bool
    values: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    report: Path | None = None
    bundle: Path | None = None


Event = StudyBegun | TrialBegun | EpochEnded | TrialEnded | StudyEnded


class Tracker(Protocol):
    """A study as a parent run with a child for each trial.

    Called in a process of its own, in the order of the events: it may take its time, print, and raise anything. A trial
    may begin again, with the epochs that it had before.
    """

    def begin_study(self, event: StudyBegun) -> None: ...

    def begin_trial(self, event: TrialBegun) -> None: ...

    def log_epoch(self, event: EpochEnded) -> None: ...

    def end_trial(self, event: TrialEnded) -> None: ...

    def end_study(self, event: StudyEnded) -> None: ...


@dataclass(frozen=True)
class TrackerEntry:
    """name: of --track, of the extra, and of the module in this package. package: what it imports. label: in text.

    where: how the results are opened. variables: of the environment, that name the server or folder.
    """

    name: str
    package: str
    label: str
    where: str
    variables: tuple[str, ...]

    @property
    def destination(self) -> str:
        """What identifies the place that a study is sent to."""
        return " ".join([self.name, *(os.environ.get(name, "") for name in self.variables)]).strip()


TRACKERS = {
    one.name: one
    for one in (
        TrackerEntry(
            "mlflow", "mlflow", "MLflow", "mlflow ui (pip install mlflow)",
            ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
        ),
        TrackerEntry(
            "wandb", "wandb", "Weights & Biases", "wandb.ai, or wandb sync for offline runs",
            ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE", "WANDB_DIR"),
        ),
        TrackerEntry(
            "trackio", "trackio", "Trackio", "trackio show",
            ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_DIR", "TRACKIO_PROJECT"),
        ),
    )
}  # fmt: skip


def find_tracker(name: str) -> TrackerEntry:
    """Return the tracker of that name. Raises ConfigError if there is none."""
    if name not in TRACKERS:
        raise ConfigError(f"No tracker named {name!r}.", did_you_mean(name, TRACKERS))
    return TRACKERS[name]
