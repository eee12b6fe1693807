"""Weights & Biases: runs of one group. WANDB_MODE=offline writes to a folder that `wandb sync` uploads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import wandb

from autotune.study.storage.rows import FAILED
from autotune.trackers.base import PROJECT, EpochEnded, StudyBegun, StudyEnded, TrialBegun, TrialEnded
from autotune.training.params import Value


class WandbTracker:
    def __init__(self) -> None:
        self._trials: dict[int, Any] = {}

    def begin_study(self, event: StudyBegun) -> None:
        self._id, self._name = event.id, event.study
        self._study = self._open("study", event.study, event.settings)

    def begin_trial(self, event: TrialBegun) -> None:
        name = f"{self._name} trial {event.number}"
        self._trials[event.number] = self._open("trial", name, event.params, f"-{event.number}")

    def log_epoch(self, event: EpochEnded) -> None:
        self._trials[event.number].log(dict(event.values), step=event.step)

    def end_trial(self, event: TrialEnded) -> None:
        run = self._trials.pop(event.number)
        run.summary.update({**event.values, "state": event.state, "ended": event.ended})
        run.finish(exit_code=int(event.state == FAILED))

    def end_study(self, event: StudyEnded) -> None:
        run = self._study
        run.summary.update({**event.values, **event.words})
        if event.report:
            run.log({"report": wandb.Html(event.report.read_text(encoding="utf-8"), inject=False)})
        if event.bundle:
            model = wandb.Artifact(f"{self._name}-{self._id[:8]}", type="model")
            model.add_dir(str(event.bundle))
            run.log_artifact(model)
        for one in (*self._trials.values(), run):
            one.finish(exit_code=int(not event.is_complete))

    def _open(self, kind: str, name: str, config: Mapping[str, Value], suffix: str = "") -> Any:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=f"{self._id}{suffix}",
            name=name,
            group=f"{self._name}-{self._id[:8]}",
            job_type=kind,
            config=dict(config),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )


def create() -> WandbTracker:
    return WandbTracker()
