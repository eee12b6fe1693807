"""What a study tells whoever follows it: a console, TensorBoard, nobody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.study.record import Record
    from autotune.study.rows import BackboneFacts, TrialRow
    from autotune.training.outcome import Epoch

TRIALS = "Trials"  # the title of the work that is estimated beforehand

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outline:
    """What a study is about to do. facts: in a few words each. epochs, gap: the most that a trial may have of them."""

    study: str
    facts: tuple[str, ...]
    metric: str
    epochs: int
    gap: float
    device: str


class StudyListener:
    """Hears of a study's progress, always in the driver's process. A listener overrides what it wants to hear; this one
    ignores everything.
    """

    def say(self, text: str = "") -> None:
        """A line for a person."""

    def detail(self, text: str) -> None:
        """A line for a person who asked for more."""

    def progress(self, title: str) -> Progress:
        """A function that is told (done, total) of one piece of work."""
        return lambda done, total: None

    def opened(self, folder: Path, metric: str, record: Record) -> None:
        """The study's record is open, with what earlier runs have left. record: to read from."""

    def planned(self, outline: Outline) -> None:
        """A study is about to start, or to go on."""

    def estimated(self, seconds: float) -> None:
        """What is left of the study will take about so long."""

    def earlier(self, trials: Sequence[TrialRow], backbones: Mapping[str, BackboneFacts]) -> None:
        """Trials that were finished before this run."""

    def started(self, number: int, words: str) -> None:
        """A trial has begun, or begins again. words: its choices."""

    def epoch(self, number: int, row: Epoch) -> None:
        """A running trial has finished an epoch, which the record has by now."""

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        """A trial has ended, failed ones too."""

    def close(self) -> None:
        """The end of a piece of work; what is told later starts anew."""


class Listeners(StudyListener):
    """Several listeners, told in order."""

    def __init__(self, *listeners: StudyListener) -> None:
        self._listeners = listeners

    def say(self, text: str = "") -> None:
        for one in self._listeners:
            one.say(text)

    def detail(self, text: str) -> None:
        for one in self._listeners:
            one.detail(text)

    def progress(self, title: str) -> Progress:
        told = [one.progress(title) for one in self._listeners]

        def tell(done: int, total: int) -> None:
            for one in told:
                one(done, total)

        return tell

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

    def started(self, number: int, words: str) -> None:
        for one in self._listeners:
            one.started(number, words)

    def epoch(self, number: int, row: Epoch) -> None:
        for one in self._listeners:
            one.epoch(number, row)

    def finished(self, row: TrialRow, backbone: BackboneFacts, is_best: bool) -> None:
        for one in self._listeners:
            one.finished(row, backbone, is_best)

    def close(self) -> None:
        for one in self._listeners:
            one.close()
