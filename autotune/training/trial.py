"""The tasks of a worker: fit a linear probe, train a trial."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from autotune.training.batches import BatchSource, EvaluationBatches, FeatureSource, TrainBatches
from autotune.training.context import SEARCHED, LoadedBackbones, TrialSources, open_sources
from autotune.training.look_alikes import find_look_alikes
from autotune.training.metrics import log_loss, predicted_classes, score
from autotune.training.network import build_network
from autotune.training.outcome import PRUNED, TIMEOUT, OutOfTimeError, ProbeOutcome, Reporter, TrialOutcome
from autotune.training.params import Params
from autotune.training.probe import (
    choose_probe,
    cross_validated_loss,
    cross_validated_score,
    last_features,
    probe_of,
)
from autotune.training.recorder import EpochRecorder
from autotune.training.trainable import Schedule, TrainableNetwork, class_weights
from autotune.training.trainer import build_trainer, is_resumable, resume_checkpoint, with_enough_memory


def run_probe(backbones: LoadedBackbones, name: str, pixels: int, reporter: Reporter) -> ProbeOutcome:
    """Fill the feature cache with the clean view and fit a linear head on its last cut."""
    context = backbones.context
    start = time.monotonic()
    backbones.feature_cache(name, pixels).fill(context.pool.digests, [0], reporter.cache_progress)
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
    clean = context.validation, context.gap_sample
    sources = open_sources(backbones, params, context.train, clean, reporter.cache_progress)
    cache_seconds = time.monotonic() - start
    net, batches = prepare_trial(backbones, params, sources.train, number, files, n_parts)
    recorder = EpochRecorder(context, params, reporter)
    _train(backbones, net, batches, sources, recorder, unfinished)
    return _outcome(net, recorder, time.monotonic() - start, cache_seconds)


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
                  files: Mapping[str, bytes], n_parts: int = 1) -> tuple[TrainableNetwork, TrainBatches]:  # fmt: skip
    """Return the initial network of trial `number` and its training batches. files: as for `run_trial`."""
    context = backbones.context
    head = probe_of(params, files).head() if context.starts_from_probe(params) else None
    seed = training_seed(context.seed, number)
    return prepare_training(backbones, params, source, context.train.labels, context.epochs, seed, head, n_parts)


def prepare_training(backbones: LoadedBackbones, params: Params, source: BatchSource, labels: tuple[int, ...],
                     epochs: int, seed: int, head: nn.Linear | None,
                     n_parts: int) -> tuple[TrainableNetwork, TrainBatches]:  # fmt: skip
    """Return a network and its training batches. head: the initial head; None: random."""
    batches = TrainBatches(source, labels, params.batch_size, params.augment, seed, backbones.n_prefetch)
    schedule = Schedule(epochs, backbones.context.cycle_epochs, len(batches))
    with_prefix = not isinstance(source, FeatureSource)
    weights = class_weights(labels, backbones.context.classes, params.class_weight)
    net = TrainableNetwork(build_network(backbones, params, seed, with_prefix), schedule, weights, seed, n_parts)
    if head is not None:
        net.head[1] = head
    net.train()  # Lightning does not change the mode
    return net, batches


def training_seed(*numbers: int) -> int:
    """Return a seed from the study's seed, the number of the trial and the like."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _train(backbones: LoadedBackbones, net: TrainableNetwork, batches: TrainBatches, sources: TrialSources,
           recorder: EpochRecorder, unfinished: Path) -> None:  # fmt: skip
    """Train until the recorder stops the trial. unfinished: the checkpoint to resume from, deleted at the end."""
    context = backbones.context
    trainer = build_trainer(
        backbones.device, net, max_epochs=context.epochs, callbacks=[recorder, resume_checkpoint(unfinished)]
    )
    clean = [
        EvaluationBatches(source, pictures.labels, backbones.n_prefetch)
        for source, pictures in zip(sources.clean, (context.validation, context.gap_sample), strict=True)
    ]
    resumed = str(unfinished) if is_resumable(unfinished) else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        try:
            trainer.fit(net, batches, clean, ckpt_path=resumed, weights_only=True)
        except OutOfTimeError:
            if not recorder.rows:
                raise
            recorder.ended = TIMEOUT
    unfinished.unlink(missing_ok=True)


def _outcome(net: TrainableNetwork, recorder: EpochRecorder, seconds: float, cache_seconds: float) -> TrialOutcome:
    best = recorder.rows[recorder.best]
    return TrialOutcome(
        value=best.validation,
        log_loss=best.log_loss,
        best_epoch=best.number,
        epochs=len(recorder.rows),
        ended=recorder.ended,
        trained_parameters=sum(p.numel() for p in net.trained()),
        checkpoint=None if recorder.ended == PRUNED else safetensors.torch.save(recorder.best_state),
        seconds=seconds,
        cache_seconds=cache_seconds,
        n_parts=net.n_parts,
    )
