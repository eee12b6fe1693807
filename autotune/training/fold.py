"""The tasks of the finals: train a network without some pictures, and average several such networks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.training.batches import BatchSource, EvaluationBatches, FeatureSource
from autotune.training.context import LoadedBackbones, TrialSources, open_sources
from autotune.training.lightning.phased import PhasedTraining, Recorder, training_seed
from autotune.training.lightning.trainer import with_enough_memory
from autotune.training.network import TrialNetwork, build_network
from autotune.training.outcome import DIVERGED, DONE, TIMEOUT, FoldEpoch, FoldOutcome, FoldReporter, SoupOutcome
from autotune.training.params import Params
from autotune.training.phases import planned_phases, total_epochs
from autotune.training.probe import LinearProbe, choose_probe, fit_probe, last_features, probe_of
from autotune.training.trial import initial_network

SOUP_BATCH = 128


def run_fold(backbones: LoadedBackbones, number: int, params: Params, fold: int, epochs: int,
             files: Mapping[str, bytes], scratch: Path, reporter: FoldReporter) -> FoldOutcome:  # fmt: skip
    """Train trial `number` again on the pool without one fold, to the end of its schedule, and predict the fold.

    Nothing about the network depends on the pictures held out: no epoch is chosen and nothing stops the training early.
    files: the probe of the search if `TrialContext.starts_from_probe`; only its penalty is used.
    """

    def run(n_parts: int, unfinished: Path) -> FoldOutcome:
        return _run_in_parts(backbones, number, params, fold, epochs, files, unfinished, reporter, n_parts)

    return with_enough_memory(run, scratch, f"fold-{number:04d}-{fold}")


def _run_in_parts(backbones: LoadedBackbones, number: int, params: Params, fold: int, epochs: int,
                  files: Mapping[str, bytes], unfinished: Path, reporter: FoldReporter,
                  n_parts: int) -> FoldOutcome:  # fmt: skip
    start = time.monotonic()
    context = backbones.context
    train, held_out = context.trained_on(fold), context.held_out(fold)
    head = _fold_probe(backbones, params, fold, files, reporter).head() if context.starts_from_probe(params) else None
    seed = training_seed(context.seed, number, fold + 2)
    phases = planned_phases(params, epochs, context.cycle_epochs)
    # All networks of a trial start from the same weights, else their average predicts otherwise.
    initial = initial_network(backbones, params, training_seed(context.seed, number), head)
    training = PhasedTraining(backbones, initial, phases, train, (held_out,), seed, n_parts, unfinished)
    recorder = _FoldRecorder(total_epochs(phases), reporter)
    net, sources = training.train(recorder, reporter, evaluates=False)
    ended, logits, checkpoint = recorder.ended, b"", b""
    if ended == DONE:
        predicted = predict_logits(net, sources.clean[0], held_out.labels, backbones)
        if predicted.isfinite().all():
            logits = safetensors.torch.save({"logits": predicted})
            checkpoint = safetensors.torch.save(net.state())
        else:
            ended = DIVERGED
    if ended != TIMEOUT:
        training.forget()
    seconds = time.monotonic() - start
    return FoldOutcome(ended, recorder.number, logits, checkpoint, seconds, training.cache_seconds, n_parts)


def run_soup(
    backbones: LoadedBackbones, params: Params, members: Sequence[bytes], reporter: FoldReporter
) -> SoupOutcome:
    """Average the weights of networks that were trained from the same start (model soup: Wortsman et al. 2022).

    members: the checkpoints of the networks.
    """
    start = time.monotonic()
    states = [safetensors.torch.load(one) for one in members]
    soup = mean_state(states)
    pool = backbones.context.pool
    sources = open_sources(backbones, params, pool, (pool,), reporter.cache_progress)
    probabilities = [_view_probabilities(backbones, params, state, sources) for state in (*states, soup)]
    mean, own = torch.stack(probabilities[:-1]).mean(0), probabilities[-1]  # (2, N, C): clean and augmented
    divergence = functional.kl_div(own.clamp_min(1e-12).log(), mean, reduction="none").sum(2).mean(1)
    changed = (own.argmax(2) != mean.argmax(2)).double().mean(1)
    return SoupOutcome(
        checkpoint=safetensors.torch.save(soup),
        divergence=float(divergence.max()),
        changed=float(changed.max()),
        seconds=time.monotonic() - start,
    )


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each floating-point tensor over several states; other tensors are equal in all of them."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype).contiguous()
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }


@torch.no_grad()
def predict_logits(
    net: TrialNetwork, source: BatchSource, labels: tuple[int, ...], backbones: LoadedBackbones
) -> Tensor:
    """Return logits (N, C) in float32, on the CPU, for all pictures of a source."""
    net = net.eval().to(backbones.device)
    found = [torch.empty(0, backbones.context.classes)]
    for *inputs, _ in EvaluationBatches(source, labels) if labels else ():
        found.append(net([one.to(backbones.device, non_blocking=True) for one in inputs]).float().cpu())
    return torch.cat(found)


def _fold_probe(backbones: LoadedBackbones, params: Params, fold: int, files: Mapping[str, bytes],
                reporter: FoldReporter) -> LinearProbe:  # fmt: skip
    """Fit a probe on the pictures that the fold's network is trained on, with the penalty that the search chose."""
    context, key = backbones.context, (params.backbone, params.pixels)
    backbones.feature_cache(*key).fill({0: context.pool.digests}, reporter.cache_progress)
    penalty = probe_of(params, files).inverse_penalty
    if penalty is None:  # a study of an earlier version
        train, validation = (last_features(backbones, *key, one) for one in (context.train, context.validation))
        penalty = choose_probe(context.metric, context.classes, *train, *validation)[0].inverse_penalty
        assert penalty is not None
    features, labels = last_features(backbones, *key, context.trained_on(fold))
    return fit_probe(context.classes, features, labels, penalty)


class _FoldRecorder(Recorder):
    """Reports every epoch, and stops at the driver's request or if the loss is no longer a number."""

    def __init__(self, epochs: int, reporter: FoldReporter) -> None:
        self.number = 0
        self._epochs = epochs
        self._reporter = reporter
        self._losses: list[Tensor] = []

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, *___: Any) -> None:
        self._losses.append(outputs["loss"].detach().view(-1))
        self._reporter.check_time()

    def on_train_epoch_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        self.number += 1
        loss = float(torch.cat(self._losses).mean()) if self._losses else 0.0  # none: resumed after the last batch
        self._losses = []
        stop = self._reporter.epoch(FoldEpoch(self.number, self._epochs, loss))
        if not np.isfinite(loss):
            self.ended = DIVERGED
        elif stop and self.number < self._epochs:
            self.ended = stop
        trainer.should_stop = self.ended != DONE

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def _view_probabilities(
    backbones: LoadedBackbones, params: Params, state: Mapping[str, Tensor], sources: TrialSources
) -> Tensor:
    """Return the probabilities (2, N, C) of a network for the pool: clean, and augmented by the trial's strength."""
    labels = backbones.context.pool.labels
    with_prefix = not isinstance(sources.train, FeatureSource)
    net = build_network(backbones, params, 0, with_prefix)
    net.load_state_dict(state, strict=False)
    clean = predict_logits(net, sources.clean[0], labels, backbones)
    return torch.stack([clean, _augmented_logits(net, sources.train, params.augment, backbones)]).double().softmax(2)


@torch.no_grad()
def _augmented_logits(net: nn.Module, source: BatchSource, strength: float, backbones: LoadedBackbones) -> Tensor:
    """Return logits (N, C) for one augmented view of every picture, the same for every network."""
    found = []
    for number, positions in enumerate(_chunks(len(backbones.context.pool))):
        batch = source.augmented(positions, strength, np.random.default_rng((backbones.context.seed, number)))
        found.append(net([one.to(backbones.device) for one in batch]).float().cpu())
    return torch.cat(found)


def _chunks(n: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    for first in range(0, n, SOUP_BATCH):
        yield np.arange(first, min(first + SOUP_BATCH, n))
