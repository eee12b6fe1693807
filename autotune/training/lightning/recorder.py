"""Lightning callback that evaluates every epoch, keeps the best one and stops a trial by the gap."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from autotune.training.context import TrialContext
from autotune.training.gap import is_better, smoothed_gap, stops_on_gap
from autotune.training.lightning.phased import Recorder
from autotune.training.metrics import WORST_LOG_LOSS, log_loss, predicted_classes, score
from autotune.training.network import TrialNetwork
from autotune.training.outcome import DIVERGED, DONE, GAP, Epoch, Reporter
from autotune.training.params import Params
from autotune.training.phases import phase_of, planned_phases, total_epochs

VALIDATION, GAP_SAMPLE = 0, 1  # loader indices, in the order of `run_trial`


class EpochRecorder(Recorder):
    """Evaluates every epoch, keeps the best one's tensors, reports to the driver, stops at its request or by the gap,
    which stops no recipe.

    rows: the epochs so far, of all phases. best: the index of the best one. earlier_seconds: of the epochs before a
    restart.
    """

    def __init__(self, context: TrialContext, params: Params, reporter: Reporter) -> None:
        self.rows: list[Epoch] = []
        self.best = 0
        self.earlier_seconds = 0.0
        self.best_state: dict[str, Tensor] = {}
        self._context = context
        self._is_recipe = params.is_recipe
        self._phases = planned_phases(params, context.epochs, context.cycle_epochs)
        self._reporter = reporter
        self._start = time.monotonic()
        self._losses: list[Tensor] = []
        self._outputs: list[tuple[int, Tensor, Tensor]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self._start = time.monotonic()

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self._losses.append(outputs["loss"].detach().view(-1))
        self._reporter.check_time()

    def on_validation_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self._outputs.append(outputs)
        self._reporter.check_time()

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        row = self._measure(trainer)
        self.rows.append(row)
        if not self.best_state or is_better(row, self.rows[self.best]):
            self.best = len(self.rows) - 1
            assert isinstance(module, TrialNetwork)
            self.best_state = module.state()
        stop = self._reporter.epoch(row)
        self.ended = stop or self._reason_to_end(row)
        trainer.should_stop = self.ended != DONE or self._ends_phase(row.number)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "best": self.best, "best_state": self.best_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [Epoch(**row) for row in state["rows"]]
        self.best, self.best_state = state["best"], state["best_state"]
        self.earlier_seconds = sum(row.seconds for row in self.rows)

    def _reason_to_end(self, row: Epoch) -> str:
        context = self._context
        if row.log_loss >= WORST_LOG_LOSS:
            return DIVERGED
        if self._is_recipe or row.number == total_epochs(self._phases):
            return DONE
        rows = self.rows[total_epochs(self._phases[:-1]) :]  # the last phase starts anew
        return GAP if rows and stops_on_gap(rows, context.patience, context.cycle_epochs, context.gap) else DONE

    def _measure(self, trainer: lightning.Trainer) -> Epoch:
        number = len(self.rows) + 1
        (validation, log_loss_), (train, _) = (self._score(loader) for loader in (VALIDATION, GAP_SAMPLE))
        loss = float(torch.cat(self._losses).mean()) if self._losses else float("nan")
        self._outputs, self._losses = [], []
        return Epoch(
            number=number,
            rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
            loss=loss,
            train=train,
            validation=validation,
            log_loss=log_loss_,
            gap=smoothed_gap([*((row.train, row.validation) for row in self.rows), (train, validation)])[-1],
            cycle_end=self._ends_cycle(number),
            seconds=time.monotonic() - self._start,
        )

    def _score(self, loader: int) -> tuple[float, float]:
        """Return the metric and the cross-entropy over one loader."""
        logits = torch.cat([out[1] for out in self._outputs if out[0] == loader])
        labels = torch.cat([out[2] for out in self._outputs if out[0] == loader])
        predictions = predicted_classes(logits)
        value = score(self._context.metric, labels.cpu().numpy(), predictions, self._context.classes)
        return value, log_loss(logits, labels)

    def _ends_cycle(self, number: int) -> bool:
        phase, epoch = phase_of(self._phases, number)
        return self._phases[phase].ends_cycle(epoch)

    def _ends_phase(self, number: int) -> bool:
        phase, epoch = phase_of(self._phases, number)
        return epoch == self._phases[phase].epochs
