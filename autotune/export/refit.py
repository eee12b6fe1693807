"""Refit: a trial's parameters trained once more, on training and validation pictures together."""

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
    """Train for as many epochs as the trial's best took, and keep the last: no validation is left to choose by.

    device: where to train; the network comes back on the finished study's. Raises StudyError where the head that the
    trial started from is gone.
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
    here = LoadedBackbones(replace(context, device=one.context.device))
    assert outcome.checkpoint is not None  # nothing prunes it
    return network_from_checkpoint(here, params, outcome.checkpoint, scratch)


class _RefitReporter:
    """Passes a refit's progress on to a listener; never stops it."""

    def __init__(self, listener: StudyListener) -> None:
        self._listener = listener

    def epoch(self, row: Epoch) -> str | None:
        self._listener.say(f"Refit: epoch {row.number}, training {percent(row.train)}")
        return None

    def cache_progress(self, done: int, total: int) -> None:
        self._listener.progress("Feature cache")(done, total)
