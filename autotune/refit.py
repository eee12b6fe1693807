"""Refit: a trial's choices trained once more, on training and validation pictures together."""

from __future__ import annotations

import shutil
from dataclasses import replace

from autotune import cache, pixels, trained, training
from autotune.errors import StudyError
from autotune.finished import Finished
from autotune.lesson import Backbones, probe_file
from autotune.listener import StudyListener
from autotune.splits import TRAIN, VALIDATION
from autotune.text import percent
from autotune.trained import Trained
from autotune.training import Epoch


def refit(one: Finished, device: str, listener: StudyListener) -> Trained:
    """Train for as many epochs as the trial's best took, and keep the last: no validation is left to choose by.

    device: where to train; the network comes back on the finished study's. Raises StudyError where the head that the
    trial started from is gone.
    """
    old, number = one.lesson, one.trial["number"]
    both = replace(
        old.train,
        digests=(*old.train.digests, *old.validation.digests),
        labels=(*old.train.labels, *old.validation.labels),
    )
    folder = old.folder / "refit"
    lesson = replace(old, train=both, folder=folder, device=device, refit_epochs=one.trial["best_epoch"])
    params = one.trained.net.params
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    head = probe_file(old.folder, params.backbone, params.pixels)
    if params.depth and not one.trained.backbone.traits.from_scratch:
        if not head.is_file():
            raise StudyError(f"{head}, which trial {number} started from, is gone.", "Put it back, or search anew.")
        shutil.copy(head, probe_file(folder, params.backbone, params.pixels))
    how, pictures = one.trained.interpolation, (*one.parts.part(TRAIN), *one.parts.part(VALIDATION))
    with cache.in_use(), training.hushed():
        pixels.fill(pixels.store(params.pixels, how), one.root, pictures, how, listener.progress("Decoding"))
        outcome = training.run_trial(Backbones(lesson), number, params, Reporter(listener))
    here = Backbones(replace(lesson, device=one.lesson.device))
    return trained.restored(here, {**one.trial, "checkpoint": outcome.checkpoint})


class Reporter:
    """Hears what a trial tells its driver; nothing stops it."""

    def __init__(self, listener: StudyListener) -> None:
        self._listener = listener

    def epoch(self, row: Epoch) -> str | None:
        self._listener.say(f"Refit: epoch {row.number}, training {percent(row.train)}")
        return None

    def banking(self, done: int, total: int) -> None:
        self._listener.progress("Bank")(done, total)
