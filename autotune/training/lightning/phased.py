"""Train a network through its phases. A killed training resumes within a phase, or at the start of one."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytorch_lightning as lightning
import torch

from autotune.files import write_whole
from autotune.training.batches import (
    CLEAN_BATCH,
    BatchSource,
    EvaluationBatches,
    FeatureSource,
    LabelledPictures,
    TrainBatches,
)
from autotune.training.context import LoadedBackbones, TrialSources, open_sources
from autotune.training.lightning.trainable import Schedule, TrainableNetwork, class_weights
from autotune.training.lightning.trainer import ResumeCheckpoint, build_trainer, delete_checkpoints, is_resumable
from autotune.training.network import TrialNetwork, build_entry
from autotune.training.outcome import DONE, CacheReporter
from autotune.training.phases import PlannedPhase

# Of a head on cached features: steps that Lightning passes on together, and pictures per batch of the evaluation. Both
# take less time than Lightning's own work for a batch.
HEAD_STEPS = 16
HEAD_CLEAN_BATCH = 1024


class Recorder(lightning.Callback):
    """Follows all phases of a training. ended: other than DONE if it has stopped the training."""

    ended = DONE


class PhasedTraining:
    """The phases of one network. net: it keeps its weights from phase to phase.

    pictures: to train on. clean: others that sources are opened for. unfinished: the file of the first phase's
    checkpoint; those of the others are beside it. cache_seconds: spent on filling the feature cache.
    """

    def __init__(self, backbones: LoadedBackbones, net: TrialNetwork, phases: Sequence[PlannedPhase],
                 pictures: LabelledPictures, clean: Sequence[LabelledPictures], seed: int, n_parts: int,
                 unfinished: Path) -> None:  # fmt: skip
        self.net = net
        self.cache_seconds = 0.0
        self._backbones = backbones
        self._phases = phases
        self._pictures = pictures
        self._clean = clean
        self._seed = seed
        self._n_parts = n_parts
        self._unfinished = unfinished

    def train(
        self, recorder: Recorder, reporter: CacheReporter, evaluates: bool
    ) -> tuple[TrainableNetwork, TrialSources]:
        """Train until the last phase is over or the recorder stops it; return the network as in its last phase.

        evaluates: whether every epoch is evaluated on the clean pictures.
        """
        first = self._restore(recorder)
        for number in range(first, len(self._phases)):
            start = time.monotonic()
            params = self._phases[number].params
            sources = open_sources(self._backbones, params, self._pictures, self._clean, reporter.cache_progress)
            self.cache_seconds += time.monotonic() - start
            net = self._train_phase(number, sources, recorder, evaluates)
            if recorder.ended != DONE:
                break
            if number + 1 < len(self._phases):
                self._keep(number + 1, recorder)
        return net, sources

    def forget(self) -> None:
        """Delete the checkpoints."""
        delete_checkpoints(self._unfinished)

    def _train_phase(self, number: int, sources: TrialSources, recorder: Recorder, evaluates: bool) -> TrainableNetwork:
        backbones, phase = self._backbones, self._phases[number]
        seed = training_seed(self._seed, number) if number else self._seed
        is_head = phase.n_trained == 0 and isinstance(sources.train, FeatureSource) and self._n_parts == 1
        net, batches = prepare_phase(
            backbones, self.net, phase, sources.train, self._pictures.labels, seed, self._n_parts,
            HEAD_STEPS if is_head else 1,
        )  # fmt: skip
        clean = [
            EvaluationBatches(source, pictures.labels, HEAD_CLEAN_BATCH if batches.together > 1 else CLEAN_BATCH)
            for source, pictures in zip(sources.clean, self._clean, strict=True)
        ]
        file = self._checkpoint(number)
        trainer = build_trainer(
            backbones.device, net, max_epochs=phase.epochs, callbacks=[recorder, ResumeCheckpoint(file)]
        )
        resumed = str(file) if is_resumable(file) else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            trainer.fit(net, batches, clean if evaluates else None, ckpt_path=resumed, weights_only=True)
        return net

    def _keep(self, number: int, recorder: Recorder) -> None:
        """Save the start of a phase, and delete the checkpoints of the one before."""
        content = io.BytesIO()
        torch.save({"net": self.net.state(), "recorder": recorder.state_dict()}, content)
        write_whole(self._start(number), content.getvalue())
        self._checkpoint(number - 1).unlink(missing_ok=True)
        self._start(number - 1).unlink(missing_ok=True)

    def _restore(self, recorder: Recorder) -> int:
        """Return the number of the phase to go on with, after loading its start."""
        for number in range(len(self._phases) - 1, 0, -1):
            if is_resumable(self._start(number)):
                kept = torch.load(self._start(number), map_location="cpu", weights_only=True)
                self.net.load_state_dict(kept["net"], strict=False)
                recorder.load_state_dict(kept["recorder"])
                return number
        return 0

    def _checkpoint(self, number: int) -> Path:
        return self._unfinished.with_name(f"phase-{number}-{self._unfinished.name}") if number else self._unfinished

    def _start(self, number: int) -> Path:
        return self._unfinished.with_name(f"start-{number}-{self._unfinished.name}")


def prepare_phase(
    backbones: LoadedBackbones, net: TrialNetwork, phase: PlannedPhase, source: BatchSource, labels: tuple[int, ...],
    seed: int, n_parts: int, together: int = 1,
) -> tuple[TrainableNetwork, TrainBatches]:  # fmt: skip
    """Return a network as Lightning trains it in one phase, and its training batches.

    together: as of `TrainBatches`.
    """
    params = phase.params
    is_cached = isinstance(source, FeatureSource)
    n_stages = len(backbones.chain(params.backbone))
    net.entry = build_entry(backbones, params.backbone, 0 if is_cached else n_stages - len(net.tail))
    net.n_frozen = len(net.tail) - phase.n_trained
    net.n_skipped = len(net.tail) - params.depth if is_cached else 0
    batches = TrainBatches(source, labels, params.batch_size, params.augment, seed, together)
    schedule = Schedule(phase.epochs, phase.cycle_epochs, batches.n_steps)
    weights = class_weights(labels, backbones.context.classes, params.class_weight)
    trainable = TrainableNetwork(net, params, schedule, weights, seed, n_parts, together)
    trainable.train()  # Lightning does not change the mode
    return trainable, batches


def training_seed(*numbers: int) -> int:
    """Return a seed from the study's seed, the number of the trial and the like."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
