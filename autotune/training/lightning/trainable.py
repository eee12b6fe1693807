"""What Lightning trains: a trial's network with its loss, optimizer and learning rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import lr_scheduler

from autotune.training.network import TrialNetwork, seed_device
from autotune.training.optimizers import build_optimizer
from autotune.training.params import Params


@dataclass(frozen=True)
class Schedule:
    """Length of the training. steps: batches per epoch."""

    epochs: int
    cycle_epochs: int
    steps: int


class TrainableNetwork(TrialNetwork, lightning.LightningModule):
    """A trial's network in one of its phases, trained by Lightning.

    net: the network, of which this one shares the parts. params: of the phase. seed: of dropout. n_parts: a batch is
    trained on in so many parts, one after another, which takes less memory. together: as of `TrainBatches`; not with
    several parts.
    """

    def __init__(self, net: TrialNetwork, params: Params, schedule: Schedule, class_weights: Tensor, seed: int,
                 n_parts: int = 1, together: int = 1) -> None:  # fmt: skip
        super().__init__(net.entry, net.tail, net.head[1], params, net.frozen_statistics)
        self.n_frozen, self.n_skipped = net.n_frozen, net.n_skipped
        self.tail[: self.n_frozen].requires_grad_(False)
        self.tail[self.n_frozen :].requires_grad_(True)
        self.strict_loading = False  # checkpoints of earlier versions contain the frozen stages
        self.automatic_optimization = n_parts == together == 1
        self.n_parts = n_parts
        self.n_steps = 0
        self.schedule = schedule
        self.seed = seed
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights, persistent=False)

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Return the loss of a batch, or the losses (N,) of several."""
        if self.n_parts > 1:
            return self._step_in_parts(batch)
        return self._next_loss(batch) if self.automatic_optimization else self._steps(batch)

    def _next_loss(self, batch: Sequence[Tensor]) -> Tensor:
        self._begin_step()
        return self._batch_loss(batch)

    def _begin_step(self) -> None:
        """Seed by the number of the step: dropout is the same with and without a resume."""
        seed_device((self.seed * 1_000_003 + self.n_steps) % 2**63, self.device)
        self.n_steps += 1

    def _steps(self, batches: Sequence[Sequence[Tensor]]) -> Tensor:
        """Take a step on each batch, without Lightning's wrapper of the optimizer, whose work takes longer than that of
        a head.
        """
        (optimizer,), rates, losses = self.trainer.optimizers, self.lr_schedulers(), []
        for batch in batches:
            loss = self._next_loss(batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()  # type: ignore[union-attr, call-arg]  # there is one scheduler
            losses.append(loss.detach())
        return torch.stack(losses)

    def _step_in_parts(self, batch: Sequence[Tensor]) -> Tensor:
        """Take a step on the sum of the gradients of a batch's parts, which is the gradient of the batch."""
        self._begin_step()
        optimizer, rates = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()  # type: ignore[union-attr]  # there is one optimizer
        n = len(batch[-1])
        n_parts = min(self.n_parts, max(n // 2, 1))  # BatchNorm cannot train on one picture
        losses = []
        for part in zip(*(one.chunk(n_parts) for one in batch), strict=True):
            loss = self._batch_loss(part) * (len(part[-1]) / n)
            self.manual_backward(loss)
            losses.append(loss.detach())
        optimizer.step()  # type: ignore[union-attr]
        rates.step()  # type: ignore[union-attr, call-arg]  # there is one scheduler
        return torch.stack(losses).sum()

    def _batch_loss(self, batch: Sequence[Tensor]) -> Tensor:
        *inputs, labels = batch
        x = self.entry(inputs)
        if not self.params.mixup:
            return self._loss(self.head(self.through_tail(x)), labels)
        # Mixup of hidden states (Zhang et al. 2018; Verma et al. 2019), because cached features have no pixels to mix.
        share = float(torch.distributions.Beta(self.params.mixup, self.params.mixup).sample())
        other = torch.randperm(len(labels), device=self.device)
        logits = self.head(self.through_tail(share * x + (1 - share) * x[other]))
        return share * self._loss(logits, labels) + (1 - share) * self._loss(logits, labels[other])

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of w_y * cross-entropy over the batch, divided by the batch size."""
        loss = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.params.label_smoothing)
        return (loss * self.class_weights[labels]).mean()

    def validation_step(self, batch: Sequence[Tensor], _: int, dataloader_idx: int = 0) -> Any:
        """Return (loader index, logits, labels) for `EpochRecorder`."""
        *inputs, labels = batch
        # In float32 at any training precision, because the exported model runs in float32.
        with torch.autocast(self.device.type, enabled=False):
            return dataloader_idx, self(inputs), labels

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["n_steps"] = self.n_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.n_steps = checkpoint.get("n_steps", checkpoint["global_step"])  # the latter in earlier versions

    def configure_optimizers(self) -> Any:
        params = self.params
        optimizer = build_optimizer(params.optimizer, self.trained(), params.lr_high, params.weight_decay)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule(optimizer), "interval": "step"}}

    def _schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """Learning rates from lr_low to lr_high: triangular cycles (Smith 2017) or one cycle (Smith & Topin 2018)."""
        low, high = self.params.lr_low, self.params.lr_high
        if self.params.cycle == "one-cycle":
            total = max(self.schedule.epochs * self.schedule.steps, 2)
            start = high / low if high > low else 1.0
            return lr_scheduler.OneCycleLR(
                optimizer, high, total_steps=total + 1, cycle_momentum=False, div_factor=start, final_div_factor=1.0
            )
        half = max(self.schedule.cycle_epochs * self.schedule.steps / 2, 0.5)
        return lr_scheduler.CyclicLR(
            optimizer,
            low,
            high,
            step_size_up=half,  # type: ignore[arg-type]  # may be a fraction of a step
            mode=self.params.cycle,  # type: ignore[arg-type]
            cycle_momentum=False,  # type: ignore[arg-type]
        )


def class_weights(labels: Sequence[int], n_classes: int, exponent: float) -> Tensor:
    """Return w (C,) = (1 / frequency)^exponent, scaled to a mean of 1 over the training pictures."""
    found = Counter(labels)
    counts = torch.tensor([max(found[label], 1) for label in range(n_classes)], dtype=torch.float64)
    raw = (len(labels) / counts) ** exponent
    return (raw * len(labels) / (raw * counts).sum()).float()
