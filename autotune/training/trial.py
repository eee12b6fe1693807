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

from autotune.backbones.weights import load_stages
from autotune.cache.features import FrozenPrefix
from autotune.training.batches import BatchSource, EvaluationBatches, FeatureSource, TrainBatches
from autotune.training.context import LoadedBackbones, TrialSources, open_sources
from autotune.training.network import Schedule, TrialNetwork, assemble_network, seed_device
from autotune.training.outcome import PRUNED, ProbeOutcome, Reporter, TrialOutcome
from autotune.training.params import Params
from autotune.training.probe import LinearProbe, fit_probe
from autotune.training.recorder import EpochRecorder
from autotune.training.trainer import build_trainer, is_resumable, resume_checkpoint


def run_probe(backbones: LoadedBackbones, name: str, pixels: int, reporter: Reporter) -> ProbeOutcome:
    """Fill the feature cache with the clean view and fit a linear head on its last cut."""
    context = backbones.context
    start = time.monotonic()
    cache = backbones.feature_cache(name, pixels)
    cache.fill((*context.train.digests, *context.validation.digests), [0], reporter.cache_progress)
    cached = time.monotonic()
    rows = cache.rows(len(backbones.chain(name)), 0)
    parts = context.train, context.validation
    train, validation = (rows.take(rows.places(part.digests)).astype(np.float32) for part in parts)
    train_labels, validation_labels = (np.array(part.labels) for part in parts)
    fitted = fit_probe(context.metric, context.classes, train, train_labels, validation, validation_labels)
    return ProbeOutcome(fitted.value, _head_bytes(fitted), time.monotonic() - cached, cached - start)


def run_trial(backbones: LoadedBackbones, number: int, params: Params, files: Mapping[str, bytes], scratch: Path,
              reporter: Reporter) -> TrialOutcome:  # fmt: skip
    """Train one trial, or resume it.

    files: content by file name: the probe's head if `TrialContext.starts_from_probe`.
    scratch: a folder for the checkpoint of the unfinished trial, which a killed trial resumes from.
    """
    start = time.monotonic()
    sources = open_sources(backbones, params, reporter.cache_progress)
    cache_seconds = time.monotonic() - start
    net, batches = prepare_training(backbones, params, sources.train, number, files)
    recorder = EpochRecorder(backbones.context, params, reporter)
    _train(backbones, net, batches, sources, recorder, scratch / f"trial-{number:04d}.unfinished.ckpt")
    return _outcome(net, recorder, time.monotonic() - start, cache_seconds)


def prepare_training(backbones: LoadedBackbones, params: Params, source: BatchSource, number: int,
                     files: Mapping[str, bytes]) -> tuple[TrialNetwork, TrainBatches]:  # fmt: skip
    """Return the initial network of trial `number` and its training batches. files: as for `run_trial`."""
    context = backbones.context
    seed = int(np.random.SeedSequence((context.seed, number)).generate_state(1)[0])
    batches = TrainBatches(source, context.train.labels, params.batch_size, params.augment, seed, backbones.n_prefetch)
    net = build_network(backbones, params, len(batches), seed, with_prefix=not isinstance(source, FeatureSource))
    if context.starts_from_probe(params):
        net.head[1] = _load_head(files[probe_file_name(params.backbone, params.pixels)])
    net.train()  # Lightning does not change the mode
    return net, batches


def build_network(
    backbones: LoadedBackbones, params: Params, steps: int, seed: int, with_prefix: bool = True
) -> TrialNetwork:
    """Build the untrained network of a trial. with_prefix: include the frozen stages; else it takes cached features."""
    context = backbones.context
    backbone, weights = context.backbones[params.backbone]
    from_scratch = backbone.traits.from_scratch
    seed_device(seed, torch.device("cpu"))
    chain = load_stages(backbone, weights).eval() if from_scratch else backbones.chain(params.backbone)
    n_frozen = len(chain) - params.depth if with_prefix else 0
    prefix = FrozenPrefix(chain[:n_frozen], backbone.traits, context.invariances)
    features = backbones.profile(params.backbone, params.pixels).features
    schedule = Schedule(context.epochs, context.cycle_epochs, steps)
    return assemble_network(
        chain, prefix, params, context.classes, features, schedule, context.train.labels, seed, from_scratch
    )


def probe_file_name(backbone: str, pixels: int) -> str:
    """Return the file name of a probe's head."""
    return f"probe-{backbone.replace(':', '-')}-{pixels}.safetensors"


def _train(backbones: LoadedBackbones, net: TrialNetwork, batches: TrainBatches, sources: TrialSources,
           recorder: EpochRecorder, unfinished: Path) -> None:  # fmt: skip
    """Train until the recorder stops the trial. unfinished: the checkpoint to resume from, deleted at the end."""
    context = backbones.context
    trainer = build_trainer(
        backbones.device, net, max_epochs=context.epochs, callbacks=[recorder, resume_checkpoint(unfinished)]
    )
    held_out = [
        EvaluationBatches(sources.validation, context.validation.labels, backbones.n_prefetch),
        EvaluationBatches(sources.gap_sample, context.gap_sample.labels, backbones.n_prefetch),
    ]
    resumed = str(unfinished) if is_resumable(unfinished) else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer.fit(net, batches, held_out, ckpt_path=resumed, weights_only=True)
    unfinished.unlink(missing_ok=True)


def _outcome(net: TrialNetwork, recorder: EpochRecorder, seconds: float, cache_seconds: float) -> TrialOutcome:
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
    )


def _head_bytes(probe: LinearProbe) -> bytes:
    return safetensors.torch.save(
        {"weight": torch.from_numpy(probe.weight).contiguous(), "bias": torch.from_numpy(probe.bias).contiguous()}
    )


def _load_head(content: bytes) -> nn.Linear:
    state = safetensors.torch.load(content)
    return LinearProbe(state["weight"].numpy(), state["bias"].numpy(), 0.0).head()
