"""Refit: train a trial again, on the training and validation pictures together."""

from __future__ import annotations

from dataclasses import replace

from autotune.cache import eviction
from autotune.cache.pixels import fill_pixels, pixel_rows
from autotune.data.split import TRAIN, VALIDATION
from autotune.study.checkpoints import Checkpoints
from autotune.study.listener import StudyListener
from autotune.study.reopen import FinishedTrial
from autotune.text import percent
from autotune.training.context import LoadedBackbones
from autotune.training.outcome import Epoch
from autotune.training.restore import TrainedNetwork, network_from_checkpoint
from autotune.training.trainer import quiet_lightning
from autotune.training.trial import run_trial


def refit_trial(one: FinishedTrial, device: str, listener: StudyListener) -> TrainedNetwork:
    """Train for as many epochs as the trial's best took; without validation pictures, keep the last epoch.

    device: where to train; the returned network is on the finished trial's device. Raises StudyError if the head that
    the trial started from is missing.
    """
    old, number = one.context, one.trial.number
    both = replace(
        old.train,
        digests=(*old.train.digests, *old.validation.digests),
        labels=(*old.train.labels, *old.validation.labels),
    )
    context = replace(old, train=both, device=device, refit_epochs=one.trial.best_epoch)
    params = one.trained.net.params
    files = Checkpoints(one.folder, old).needed_by(number, params)
    scratch = one.folder / "refit"
    scratch.mkdir(exist_ok=True)
    how, pictures = one.trained.interpolation, (*one.parts.part(TRAIN), *one.parts.part(VALIDATION))
    with eviction.in_use(), quiet_lightning():
        fill_pixels(pixel_rows(params.pixels, how), one.root, pictures, how, listener.progress("Decoding"))
        outcome = run_trial(LoadedBackbones(context), number, params, files, scratch, _RefitReporter(listener))
    loaded = LoadedBackbones(replace(context, device=one.context.device))
    assert outcome.checkpoint is not None  # a refit is never pruned
    return network_from_checkpoint(loaded, params, outcome.checkpoint, scratch)


class _RefitReporter:
    """Passes the progress of a refit to a listener; never stops it."""

    def __init__(self, listener: StudyListener) -> None:
        self._listener = listener

    def epoch(self, row: Epoch) -> str | None:
        self._listener.say(f"Refit: epoch {row.number}, training score {percent(row.train)}")
        return None

    def cache_progress(self, done: int, total: int) -> None:
        self._listener.progress("Feature cache")(done, total)
