"""Listeners: receive the progress of a study, to print it or to log it to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.study.storage.record import Record
    from autotune.study.storage.rows import BackboneFacts, TrialRow
    from autotune.training.outcome import Epoch
    from autotune.training.params import Params

TRIALS = "Trials"  # the title of the work whose duration is estimated

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outline:
    """A summary of the plan. facts: short phrases. epochs, gap: the limits of a trial.

    deadline: of the run, on time.monotonic's clock.
    """

    study: str
    facts: tuple[str, ...]
    metric: str
    epochs: int
    gap: float
    device: str
    deadline: float | None


class StudyListener:
    """Receives the progress of a study, in the driver's process. The methods do nothing by default."""

    def say(self, text: str = "") -> None:
        """Show a line of text."""

    def detail(self, text: str) -> None:
        """Show a line of verbose output."""

    def working(self, title: str) -> None:
        """Work of unknown length has begun; the next call of another method, except of `say`, ends it."""

    def progress(self, title: str) -> Progress:
        """Return a function to call with (done, total) as one piece of work proceeds."""
        return lambda done, total: None

    def opened(self, folder: Path, metric: str, record: Record) -> None:
        """The study's record is open and contains the results of earlier runs. record: only to be read."""

    def planned(self, outline: Outline) -> None:
        """A study is about to start or resume."""

    def estimated(self, seconds: float) -> None:
        """The time that the rest of the study takes is estimated again."""

    def earlier(self, trials: Sequence[TrialRow], backbones: Mapping[str, BackboneFacts]) -> None:
        """The trials finished before this run are available."""

    def started(self, number: int, params: Params, words: str, epochs: int, curve: Sequence[Epoch] = ()) -> None:
        """A trial has started or restarted. words: hyperparameters in text. epochs: at most. curve: its epochs before
        a restart; some of the last ones may be repeated.
        """

    def epoch(self, number: int, row: Epoch) -> None:
        """A running trial has finished an epoch, which is already recorded."""

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        """A trial has finished or failed."""

    def close(self) -> None:
        """A piece of work has ended; later calls belong to a new one."""


class Listeners(StudyListener):
    """Several listeners, called in order."""

    def __init__(self, *listeners: StudyListener) -> None:
        self._listeners = listeners

    def say(self, text: str = "") -> None:
        for one in self._listeners:
            one.say(text)

    def detail(self, text: str) -> None:
        for one in self._listeners:
            one.detail(text)

    def working(self, title: str) -> None:
        for one in self._listeners:
            one.working(title)

    def progress(self, title: str) -> Progress:
        functions = [one.progress(title) for one in self._listeners]

        def update(done: int, total: int) -> None:
            for function in functions:
                function(done, total)

        return update

    def opened(self, folder: Path, metric: str, record: Record) -> None:
        for one in self._listeners:
            one.opened(folder, metric, record)

    def planned(self, outline: Outline) -> None:
        for one in self._listeners:
            one.planned(outline)

    def estimated(self, seconds: float) -> None:
        for one in self._listeners:
            one.estimated(seconds)

    def earlier(self, trials: Sequence[TrialRow], backbones: Mapping[str, BackboneFacts]) -> None:
        for one in self._listeners:
            one.earlier(trials, backbones)

    def started(self, number: int, params: Params, words: str, epochs: int, curve: Sequence[Epoch] = ()) -> None:
        for one in self._listeners:
            one.started(number, params, words, epochs, curve)

    def epoch(self, number: int, row: Epoch) -> None:
        for one in self._listeners:
            one.epoch(number, row)

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        for one in self._listeners:
            one.finished(row, backbone, is_best)

    def close(self) -> None:
        for one in self._listeners:
            one.close()
