"""Other final models of a finished study, for selection.py: what the finals could have handed over instead."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autotune.cache.pixels import fill_pixels, pixel_rows, read_square
from autotune.data.split import TRAIN, VALIDATION
from autotune.study.finals.held_out import folds_of, read_held_out
from autotune.study.finals.race import fold_epochs
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial, reopen_trial
from autotune.study.request import Resources
from autotune.study.storage.checkpoints import Checkpoints
from autotune.study.storage.record import open_record
from autotune.study.storage.rows import Finalist, FoldRow, TrialRow
from autotune.training.calibration import expected_calibration_error
from autotune.training.context import WHOLE_POOL
from autotune.training.fold import run_fold, run_soup
from autotune.training.metrics import log_loss
from autotune.training.outcome import DONE, FoldEpoch
from autotune.training.restore import network_from_checkpoint

BATCH = 128


class Reporter:
    """Replaces a driver; never stops."""

    def epoch(self, row: FoldEpoch) -> str | None:
        return None

    def check_time(self) -> None:
        """There is no time limit."""

    def cache_progress(self, done: int, total: int) -> None:
        pass


@dataclass(frozen=True)
class FinishedStudy:
    """A finished study, and pictures to judge its networks on. later: their paths."""

    folder: Path
    later: Sequence[Path]
    one: FinishedTrial
    trials: Sequence[TrialRow]
    folds: Sequence[FoldRow]

    @cached_property
    def pixels(self) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        size, how = self.one.trained.pixels, self.one.trained.interpolation
        return np.stack([read_square(path, size, how) for path in self.later])

    def trial(self, number: int) -> TrialRow:
        return next(row for row in self.trials if row.number == number)

    def logits(self, number: int, checkpoint: bytes) -> Tensor:
        """Return logits (N, C) of a network for the later pictures."""
        net = network_from_checkpoint(self.one.backbones, self.trial(number).params, checkpoint, self.folder)
        return torch.cat([net.logits(self.pixels[i : i + BATCH]) for i in range(0, len(self.later), BATCH)])

    def own(self, number: int) -> Tensor:
        return self.logits(number, (self.folder / str(self.trial(number).checkpoint)).read_bytes())

    def network(self, number: int, fold: int) -> bytes:
        """Return the network of a fold, or of the whole pool, trained now if the study did not."""
        for row in self.folds:
            if (row.trial, row.fold) == (number, fold) and row.checkpoint:
                return (self.folder / row.checkpoint).read_bytes()
        context, params = self.one.context, self.trial(number).params
        epochs = fold_epochs(params.cycle, self.trial(number).best_epoch or 1, context.cycle_epochs, context.epochs)
        files = Checkpoints(self.one.files, context).needed_by(params)
        outcome = run_fold(self.one.backbones, number, params, fold, epochs, files, self.folder, Reporter())
        assert outcome.ended == DONE, outcome.ended
        return outcome.checkpoint

    def refit(self, number: int) -> Tensor:
        return self.logits(number, self.network(number, WHOLE_POOL))

    def members(self, number: int) -> list[bytes]:
        return [self.network(number, fold) for fold in range(max(self.one.context.folds) + 1)]

    def soup(self, number: int) -> tuple[Tensor, float, float]:
        """Return the logits of the average of a trial's networks, its divergence and its changed predictions."""
        outcome = run_soup(self.one.backbones, self.trial(number).params, self.members(number), Reporter())
        return self.logits(number, outcome.checkpoint), outcome.divergence, outcome.changed

    def mean(self, number: int) -> Tensor:
        """Return the logarithm of the mean probability of a trial's networks."""
        logits = torch.stack([self.logits(number, one) for one in self.members(number)])
        return logits.softmax(2).mean(0).log()

    def calibration(self, number: int, labels: Tensor) -> dict[str, tuple[float, float]]:
        """Return the cross-entropy and the expected calibration error on the later pictures, by how they are predicted.

        labels: (N,), class numbers. The temperature is that of the study, fitted on held-out predictions.
        """
        assert self.one.final
        temperature = self.one.final.temperature or 1.0
        (soup, *_), members = self.soup(number), [self.logits(number, one) for one in self.members(number)]
        each = [_quality(one, labels) for one in members]
        return {
            "soup, fitted temperature": _quality(soup / temperature, labels),
            "soup, temperature 1": _quality(soup, labels),
            "mean of its networks": _quality(torch.stack(members).softmax(2).mean(0).log(), labels),
            "one network": (float(np.mean([one[0] for one in each])), float(np.mean([one[1] for one in each]))),
        }

    def best(self) -> int:
        """Return the finalist of the last round with the best score; without finals, the best trial."""
        assert self.one.final
        return max(self._full(), key=lambda one: one.mean).trial if self._full() else self.one.final.trial

    def simplest(self) -> int:
        """Return the finalist of the last round with the fewest trained parameters within a standard error of the best.

        Without finals, the best trial.
        """
        near = [self.best()]
        for one in self._full():
            lead = self._correct(self.best()) - self._correct(one.trial)
            if lead.mean() <= lead.std() / len(lead) ** 0.5:
                near.append(one.trial)
        return min(near, key=lambda number: self.trial(number).trained_parameters or 0)

    def _full(self) -> list[Finalist]:
        assert self.one.final
        finalists = self.one.final.finalists
        most = max((len(one.folds) for one in finalists), default=0)
        return [one for one in finalists if len(one.folds) == most]

    def _correct(self, number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        rows = [row for row in folds_of(self.folds, number) if row.fold != 0]
        held = read_held_out(self.one.files, self.one.parts, rows)
        classes = self.one.parts.classes
        answers = held.logits.argmax(1).tolist()
        return np.array([classes[a] == p.label for a, p in zip(answers, held.pictures, strict=True)], dtype=float)


def _quality(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the cross-entropy in nats and the expected calibration error of logits (N, C)."""
    return log_loss(logits, labels), expected_calibration_error(logits.softmax(1), labels)


@contextmanager
def opened(folder: Path, later: Sequence[Path], cache: Path) -> Iterator[FinishedStudy]:
    """Open a finished study, with a cache folder of its own. later: the pictures to judge its networks on."""
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    os.environ["AUTOTUNE_CACHE"] = str(cache)
    with open_record(folder) as record:
        one = reopen_trial(folder, record, Resources("cpu"), StudyListener())
        how, pictures = one.trained.interpolation, (*one.parts.part(TRAIN), *one.parts.part(VALIDATION))
        fill_pixels(pixel_rows(one.trained.pixels, how), one.root, pictures, how, lambda *_: None)
        torch.set_num_threads(one.context.threads)
        yield FinishedStudy(folder, later, one, record.trials(), record.folds())
