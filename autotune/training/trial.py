"""The tasks of a worker: fit a linear probe, train a trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from autotune.training.batches import BatchSource, TrainBatches
from autotune.training.context import SEARCHED, LoadedBackbones, TrialContext
from autotune.training.lightning.phased import PhasedTraining, prepare_phase, training_seed
from autotune.training.lightning.recorder import EpochRecorder
from autotune.training.lightning.trainable import TrainableNetwork
from autotune.training.lightning.trainer import with_enough_memory
from autotune.training.look_alikes import find_look_alikes
from autotune.training.metrics import log_loss, predicted_classes, score
from autotune.training.network import TrialNetwork, build_network
from autotune.training.outcome import PRUNED, TIMEOUT, OutOfTimeError, ProbeOutcome, Reporter, TrialOutcome
from autotune.training.params import Params
from autotune.training.phases import planned_phases
from autotune.training.probe import (
    choose_probe,
    cross_validated_loss,
    cross_validated_score,
    last_features,
    probe_of,
)


def run_probe(backbones: LoadedBackbones, name: str, pixels: int, reporter: Reporter) -> ProbeOutcome:
    """Fill the feature cache with the clean view and fit a linear head on its last cut."""
    context = backbones.context
    start = time.monotonic()
    backbones.feature_cache(name, pixels).fill({0: context.pool.digests}, reporter.cache_progress)
    cached = time.monotonic()
    features, labels = last_features(backbones, name, pixels, context.pool)
    folds = np.array(context.folds)
    train, validation = folds != SEARCHED, folds == SEARCHED
    fitted, value = choose_probe(
        context.metric, context.classes, features[train], labels[train], features[validation], labels[validation]
    )
    loss = cross_validated_loss(context.classes, fitted, features, labels, folds)
    by_picture, by_visit = (
        cross_validated_score(context.metric, context.classes, fitted, features, labels, np.array(one))
        if context.folds_by_picture
        else None
        for one in (context.folds_by_picture, context.folds)
    )
    look_alikes = {
        label: tuple(context.pool.digests[row] for row in rows)
        for label, rows in find_look_alikes(features, labels).items()
    }
    seconds, cache_seconds = time.monotonic() - cached, cached - start
    return ProbeOutcome(value, loss, fitted.to_bytes(), seconds, cache_seconds, by_picture, by_visit, look_alikes)


def run_trial(backbones: LoadedBackbones, number: int, params: Params, files: Mapping[str, bytes], scratch: Path,
              reporter: Reporter) -> TrialOutcome:  # fmt: skip
    """Train one trial, or resume it.

    files: content by file name: the probe's head if `TrialContext.starts_from_probe`.
    scratch: a folder for the checkpoint of the unfinished trial, which a killed trial resumes from.
    """

    def run(n_parts: int, unfinished: Path) -> TrialOutcome:
        return _run_in_parts(backbones, number, params, files, unfinished, reporter, n_parts)

    return with_enough_memory(run, scratch, f"trial-{number:04d}")


def _run_in_parts(backbones: LoadedBackbones, number: int, params: Params, files: Mapping[str, bytes], unfinished: Path,
                  reporter: Reporter, n_parts: int) -> TrialOutcome:  # fmt: skip
    start = time.monotonic()
    context = backbones.context
    seed = training_seed(context.seed, number)
    net = initial_network(backbones, params, seed, _initial_head(context, params, files))
    phases = planned_phases(params, context.epochs, context.cycle_epochs)
    clean = context.validation, context.gap_sample
    training = PhasedTraining(backbones, net, phases, context.train, clean, seed, n_parts, unfinished)
    recorder = EpochRecorder(context, params, reporter)
    try:
        training.train(recorder, reporter, evaluates=True)
    except OutOfTimeError:
        if not recorder.rows:
            raise
        recorder.ended = TIMEOUT
    training.forget()
    seconds = recorder.earlier_seconds + time.monotonic() - start
    return _outcome(net, recorder, seconds, training.cache_seconds, n_parts)


def take_probe(backbones: LoadedBackbones, number: int, params: Params, files: Mapping[str, bytes]) -> TrialOutcome:
    """Return the pretrained network with the linear probe as its head, which is where a trial starts, untrained.

    For a study without time to train. files: the probe's head.
    """
    start = time.monotonic()
    context = backbones.context
    net = build_network(backbones, params, training_seed(context.seed, number))
    net.head[1] = probe_of(params, files).head()
    features, labels = last_features(backbones, params.backbone, params.pixels, context.validation)
    with torch.no_grad():
        logits = net.head.eval()(torch.from_numpy(features))
    return TrialOutcome(
        value=score(context.metric, labels, predicted_classes(logits), context.classes),
        log_loss=log_loss(logits, torch.from_numpy(labels)),
        best_epoch=0,
        epochs=0,
        ended=TIMEOUT,
        trained_parameters=sum(p.numel() for p in net.trained()),
        checkpoint=safetensors.torch.save(net.state()),
        seconds=time.monotonic() - start,
        cache_seconds=0.0,
    )


def prepare_trial(backbones: LoadedBackbones, params: Params, source: BatchSource, number: int,
                  files: Mapping[str, bytes]) -> tuple[TrainableNetwork, TrainBatches]:  # fmt: skip
    """Return the initial network of trial `number` and its training batches. files: as for `run_trial`."""
    context = backbones.context
    seed = training_seed(context.seed, number)
    net = initial_network(backbones, params, seed, _initial_head(context, params, files))
    (phase,) = planned_phases(params, context.epochs, context.cycle_epochs)
    return prepare_phase(backbones, net, phase, source, context.train.labels, seed, n_parts=1)


def initial_network(backbones: LoadedBackbones, params: Params, seed: int, head: nn.Linear | None) -> TrialNetwork:
    """Return the network of a trial before its first phase. head: the initial head; None: random."""
    net = build_network(backbones, params, seed, with_prefix=False)
    if head is not None:
        net.head[1] = head
    return net


def _initial_head(context: TrialContext, params: Params, files: Mapping[str, bytes]) -> nn.Linear | None:
    return probe_of(params, files).head() if context.starts_from_probe(params) else None


def _outcome(
    net: TrialNetwork, recorder: EpochRecorder, seconds: float, cache_seconds: float, n_parts: int
) -> TrialOutcome:
    best = recorder.rows[recorder.best]
    return TrialOutcome(
        value=best.validation,
        log_loss=best.log_loss,
        best_epoch=best.number,
        epochs=len(recorder.rows),
        ended=recorder.ended,
        trained_parameters=sum(p.numel() for p in (*net.tail.parameters(), *net.head.parameters())),
        checkpoint=None if recorder.ended == PRUNED else safetensors.torch.save(recorder.best_state),
        seconds=seconds,
        cache_seconds=cache_seconds,
        n_parts=n_parts,
    )
