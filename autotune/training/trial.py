"""Training: one trial's Params become a trained tail, its curve and its validation scores."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from autotune.backbones.weights import load_stages
from autotune.cache.features import FrozenPrefix
from autotune.files import write_whole
from autotune.training.batches import BatchSource, EvaluationBatches, FeatureSource, TrainBatches
from autotune.training.context import LoadedBackbones, TrialContext, open_sources, probe_file
from autotune.training.network import Schedule, TrialNetwork, assemble_network, seed_device
from autotune.training.outcome import PRUNED, ProbeOutcome, Reporter, TrialOutcome
from autotune.training.params import Params
from autotune.training.probe import LinearProbe, fit_probe
from autotune.training.recorder import EpochRecorder
from autotune.training.trainer import build_trainer, is_resumable, resume_checkpoint


def run_probe(backbones: LoadedBackbones, name: str, size: int, reporter: Reporter) -> ProbeOutcome:
    """Fill the bank's clean view, fit a linear head and keep it for the trials that start from it."""
    context = backbones.context
    start = time.monotonic()
    bank = backbones.bank(name, size)
    bank.fill((*context.train.digests, *context.validation.digests), [0], reporter.banking)
    banked = time.monotonic()
    rows = bank.rows(len(backbones.chain(name)), 0)
    parts = [rows.take(rows.places(part.digests)).astype(np.float32) for part in (context.train, context.validation)]
    labels = [np.array(part.labels) for part in (context.train, context.validation)]
    fitted = fit_probe(context.metric, context.classes, parts[0], labels[0], parts[1], labels[1])
    file = probe_file(context.folder, name, size)
    file.parent.mkdir(parents=True, exist_ok=True)
    head = {"weight": torch.from_numpy(fitted.weight).contiguous(), "bias": torch.from_numpy(fitted.bias).contiguous()}
    _save(head, file)
    return ProbeOutcome(fitted.value, time.monotonic() - banked, banked - start)


def run_trial(backbones: LoadedBackbones, number: int, params: Params, reporter: Reporter) -> TrialOutcome:
    """Train one trial to its end. A checkpoint left by a killed run of the same trial is gone on from."""
    context = backbones.context
    start = time.monotonic()
    (context.folder / "checkpoints").mkdir(exist_ok=True)
    held = open_sources(backbones, params, reporter.banking)
    banked = time.monotonic()
    net, batches = prepare_training(backbones, params, held[0], number)
    progress = EpochRecorder(context, params, reporter)
    unfinished = context.folder / "checkpoints" / f"trial-{number:04d}.unfinished.ckpt"
    trainer = build_trainer(
        backbones.device, net, max_epochs=context.epochs, callbacks=[progress, resume_checkpoint(unfinished)]
    )
    held_out = [
        EvaluationBatches(held[1], context.validation.labels, backbones.ahead),
        EvaluationBatches(held[2], context.gap_sample.labels, backbones.ahead),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        left = str(unfinished) if is_resumable(unfinished) else None
        trainer.fit(net, batches, held_out, ckpt_path=left, weights_only=True)
    checkpoint = None
    if progress.ended != PRUNED:
        checkpoint = f"checkpoints/trial-{number:04d}.safetensors"
        _save(progress.best_state, context.folder / checkpoint)
    unfinished.unlink(missing_ok=True)
    best = progress.rows[progress.best]
    return TrialOutcome(
        value=best.validation,
        log_loss=best.log_loss,
        best_epoch=best.number,
        epochs=len(progress.rows),
        ended=progress.ended,
        trained_parameters=sum(p.numel() for p in net.trained()),
        checkpoint=checkpoint,
        seconds=time.monotonic() - start,
        cache_seconds=banked - start,
    )


def prepare_training(
    backbones: LoadedBackbones, params: Params, source: BatchSource, number: int
) -> tuple[TrialNetwork, TrainBatches]:
    """What trial `number` begins with: its network, a deep one with the probe's head, and its training batches."""
    context = backbones.context
    seed = int(np.random.SeedSequence((context.seed, number)).generate_state(1)[0])
    batches = TrainBatches(source, context.train.labels, params.batch_size, params.augment, seed, backbones.ahead)
    net = build_network(backbones, params, len(batches), seed, with_prefix=not isinstance(source, FeatureSource))
    if params.depth and not _from_scratch(backbones, params):
        net.head[1] = _probed_head(context, params)
    net.train()  # Lightning leaves the modes as it finds them
    return net, batches


def build_network(
    backbones: LoadedBackbones, params: Params, steps: int, seed: int, with_prefix: bool = True
) -> TrialNetwork:
    """The untrained network of a trial; its frozen prefix in front, unless a bank stands for it."""
    context = backbones.context
    entry, found = context.backbones[params.backbone]
    seed_device(seed, torch.device("cpu"))
    chain = load_stages(entry, found).eval() if entry.traits.from_scratch else backbones.chain(params.backbone)
    front = FrozenPrefix(chain[: (len(chain) - params.depth) * with_prefix], entry.traits, context.invariances)
    features = backbones.profile(params.backbone, params.pixels).features
    schedule = Schedule(context.epochs, context.cycle_epochs, steps)
    return assemble_network(
        chain, front, params, context.classes, features, schedule, context.train.labels, seed, entry.traits.from_scratch
    )


def _from_scratch(backbones: LoadedBackbones, params: Params) -> bool:
    return backbones.context.backbones[params.backbone][0].traits.from_scratch


def _probed_head(context: TrialContext, params: Params) -> nn.Linear:
    state = safetensors.torch.load_file(probe_file(context.folder, params.backbone, params.pixels))
    return LinearProbe(state["weight"].numpy(), state["bias"].numpy(), 0.0).head()


def _save(state: dict[str, Tensor], file: Path) -> None:
    """On the disk before the record speaks of it."""
    write_whole(file, safetensors.torch.save(state), durable=True)
