"""The callback that measures every epoch, keeps the best and stops a trial on the gap."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from autotune.training.context import TrialContext
from autotune.training.metrics import WORST_LOG_LOSS, log_loss, predicted_classes, score, smooth
from autotune.training.network import TrialNetwork
from autotune.training.outcome import DIVERGED, DONE, GAP, Epoch, Reporter
from autotune.training.params import Params


class EpochRecorder(lightning.Callback):
    """Measures every epoch, keeps the best, asks the driver, and stops on the gap."""

    def __init__(self, context: TrialContext, params: Params, reporter: Reporter) -> None:
        self.rows: list[Epoch] = []
        self.best = 0
        self.best_state: dict[str, Tensor] = {}
        self.ended = DONE
        self._context = context
        self._params = params
        self._reporter = reporter
        self._start = time.monotonic()
        self._losses: list[Tensor] = []
        self._outputs: list[tuple[int, Tensor, Tensor]] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self._start = time.monotonic()

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self._losses.append(outputs["loss"].detach())

    def on_validation_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self._outputs.append(outputs)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        row = self._measured(trainer)
        self.rows.append(row)
        refit = self._context.refit_epochs
        if not self.best_state or refit or is_better(row, self.rows[self.best]):
            self.best = len(self.rows) - 1
            assert isinstance(module, TrialNetwork)
            self.best_state = module.state()
        answer = self._reporter.epoch(row)
        last = len(self.rows) >= (refit or self._context.epochs)
        if answer:
            self.ended = answer
        elif row.log_loss >= WORST_LOG_LOSS:
            self.ended = DIVERGED
        elif (
            not last
            and not refit
            and stops_on_gap(self.rows, self._context.patience, self._context.cycle_epochs, self._context.gap)
        ):
            self.ended = GAP
        trainer.should_stop = last or self.ended != DONE

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [asdict(row) for row in self.rows], "best": self.best, "best_state": self.best_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = [Epoch(**row) for row in state["rows"]]
        self.best, self.best_state = state["best"], state["best_state"]

    def _measured(self, trainer: lightning.Trainer) -> Epoch:
        context, number = self._context, len(self.rows) + 1
        values, losses = [], []
        for which in (0, 1):
            logits = torch.cat([out[1] for out in self._outputs if out[0] == which])
            labels = torch.cat([out[2] for out in self._outputs if out[0] == which])
            values.append(score(context.metric, labels.cpu().numpy(), predicted_classes(logits), context.classes))
            losses.append(log_loss(logits, labels))
        loss = float(torch.stack(self._losses).mean()) if self._losses else float("nan")
        self._outputs, self._losses = [], []
        return Epoch(
            number=number,
            rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
            loss=loss,
            train=values[1],
            validation=values[0],
            log_loss=losses[0],
            gap=smoothed_gap([*((row.train, row.validation) for row in self.rows), (values[1], values[0])])[-1],
            cycle_end=self._ends_cycle(number),
            seconds=time.monotonic() - self._start,
        )

    def _ends_cycle(self, number: int) -> bool:
        one_cycle = self._params.cycle == "one-cycle"
        return number % (self._context.epochs if one_cycle else self._context.cycle_epochs) == 0


def is_better(row: Epoch, other: Epoch) -> bool:
    """A higher metric; between equals, a lower cross-entropy."""
    return (row.validation, -row.log_loss) > (other.validation, -other.log_loss)


def smoothed_gap(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """Train minus validation, each smoothed with 0.8, for a curve of (train, validation)."""
    train, validation = (smooth([pair[i] for pair in pairs]) for i in (0, 1))
    return [a - b for a, b in zip(train, validation, strict=True)]


def stops_on_gap(rows: Sequence[Epoch], patience: int, cycle_epochs: int, most: float) -> bool:
    """Whether a trial has begun to memorise: no better validation for `patience` epochs (a cycle at least), while
    the smoothed gap is over `most` or has grown over those epochs.
    """
    waited = max(patience, cycle_epochs)
    if len(rows) <= waited:
        return False
    best_before = max(row.validation for row in rows[:-waited])
    stalled = max(row.validation for row in rows[-waited:]) <= best_before
    return stalled and (rows[-1].gap > most or rows[-1].gap > max(rows[-1 - waited].gap, 0.0))
