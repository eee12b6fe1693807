"""MLflow: nested runs of one experiment. MLFLOW_TRACKING_URI names the server; the default is a local file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from autotune.study.storage.rows import COMPLETE, FAILED
from autotune.trackers.base import PROJECT, EpochEnded, StudyBegun, StudyEnded, TrialBegun, TrialEnded
from autotune.training.params import Value

LONGEST_VALUE = 500  # of a parameter, in every version of MLflow


class MlflowTracker:
    def __init__(self) -> None:
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        self._experiment: str = found.experiment_id if found else self._client.create_experiment(name)
        self._trials: dict[int, str] = {}
        self._known_steps: dict[str, int] = {}  # of runs that existed before

    def begin_study(self, event: StudyBegun) -> None:
        self._id, self._name = event.id, event.study
        self._study = self._open(event.study, "study", {"autotune.folder": str(event.folder)}, event.settings)

    def begin_trial(self, event: TrialBegun) -> None:
        tags = {"mlflow.parentRunId": self._study}
        self._trials[event.number] = self._open(f"trial {event.number}", str(event.number), tags, event.params)

    def log_epoch(self, event: EpochEnded) -> None:
        run = self._trials[event.number]
        if event.step > self._last_step(run):  # MLflow would keep a point for each time that it is sent
            self._log(run, event.values, event.step)

    def _last_step(self, run: str) -> int:
        """Return the last epoch that a run has."""
        if run not in self._known_steps:
            self._known_steps[run] = max((one.step for one in self._client.get_metric_history(run, "loss")), default=0)
        return self._known_steps[run]

    def end_trial(self, event: TrialEnded) -> None:
        run = self._trials.pop(event.number)
        self._log(run, event.values, 0)
        self._client.set_tag(run, "autotune.ended", event.ended)
        status = "FINISHED" if event.state == COMPLETE else "FAILED" if event.state == FAILED else "KILLED"
        self._client.set_terminated(run, status)

    def end_study(self, event: StudyEnded) -> None:
        self._log(self._study, event.values, 0)
        for name, text in event.words.items():
            self._client.set_tag(self._study, f"autotune.{name}", text)
        if event.report:
            self._client.log_artifact(self._study, str(event.report))
        if event.bundle:
            self._client.log_artifacts(self._study, str(event.bundle), "bundle")
        for run in self._trials.values():
            self._client.set_terminated(run, "KILLED")
        self._client.set_terminated(self._study, "FINISHED" if event.is_complete else "KILLED")

    def _open(self, name: str, part: str, tags: Mapping[str, str], params: Mapping[str, Value]) -> str:
        """Return the id of a run, which exists already if the study or trial is resumed."""
        own = {"autotune.id": self._id, "autotune.part": part}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in own.items())
        if known := self._client.search_runs([self._experiment], wanted, max_results=1):
            run: str = known[0].info.run_id
            self._client.update_run(run, status="RUNNING")
            return run
        run = self._client.create_run(self._experiment, run_name=name).info.run_id
        texts = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in params.items()]
        self._client.log_batch(run, params=texts, tags=[RunTag(key, text) for key, text in {**own, **tags}.items()])
        return run

    def _log(self, run: str, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])


def create() -> MlflowTracker:
    return MlflowTracker()
