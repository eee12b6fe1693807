"""Trackio: runs of one group, in a local database. TRACKIO_SPACE_ID or TRACKIO_SERVER_URL name another place."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Mapping
from typing import Any

import trackio

from autotune.trackers.base import PROJECT, EpochEnded, StudyBegun, StudyEnded, TrialBegun, TrialEnded
from autotune.training.params import Value


class TrackioTracker:
    def __init__(self) -> None:
        self._trials: dict[int, Any] = {}

    def begin_study(self, event: StudyBegun) -> None:
        self._group = f"{event.study}-{event.id[:8]}"
        self._study = self._open(self._group, event.settings)

    def begin_trial(self, event: TrialBegun) -> None:
        self._trials[event.number] = self._open(f"{self._group}-trial-{event.number}", event.params)

    def log_epoch(self, event: EpochEnded) -> None:
        self._trials[event.number].log(dict(event.values), step=event.step)

    def end_trial(self, event: TrialEnded) -> None:
        run = self._trials.pop(event.number)
        run.log({**event.values, "state": event.state, "ended": event.ended})
        run.finish()

    def end_study(self, event: StudyEnded) -> None:
        run = self._study
        if event.values or event.words:
            run.log({**event.values, **event.words})
        if event.report:
            run.log_artifact(str(event.report), name=f"{self._group}-report", type="report")
        if event.bundle:
            run.log_artifact(str(event.bundle), name=f"{self._group}-bundle", type="model")
        for one in (*self._trials.values(), run):
            one.finish()

    def _open(self, name: str, config: Mapping[str, Value]) -> Any:
        """Open a run. In a context of its own: `init` ends the run that it finds in the current one."""

        def init() -> Any:
            return trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=name,
                group=self._group,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

        return contextvars.Context().run(init)


def create() -> TrackioTracker:
    return TrackioTracker()
