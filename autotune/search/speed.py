"""Estimated duration of a study: counted work at speeds measured on this machine."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.backbones.profile import StageProfile
from autotune.backbones.weights import load_stages
from autotune.cache.features import BATCH, N_VIEWS, channels_last
from autotune.data.split import TRAIN, VALIDATION
from autotune.search.candidates import Candidate
from autotune.search.cost import EPOCHS_SHARE, FINALS_SHARE
from autotune.search.plan import Plan
from autotune.training.malloc import keep_freed_memory
from autotune.training.trainer import bfloat16_pays

TRIAL_SECONDS = 0.3  # overhead per trial, without its arithmetic
EPOCH_SECONDS = 0.03  # overhead per epoch
CLASSES = 10  # of the timed head; the number hardly affects the time


@dataclass(frozen=True)
class MachineSpeed:
    """Seconds per picture. forward: through all stages. steps, cleans: by depth, of a training step and an evaluation
    through the last `depth` stages.
    """

    forward: float
    steps: dict[int, float]
    cleans: dict[int, float]


def estimate_seconds(plan: Plan, n_trials: float, missing: Mapping[tuple[str, int], int] | None = None) -> float:
    """Estimate the duration of n trials and the finals in seconds, for display only.

    missing: per backbone and size, the number of pictures without cached features, counted once per view; None: all.
    """
    keep_freed_memory()
    epochs = max(plan.settings.n_epochs * EPOCHS_SHARE, 1)
    n_trials = n_trials * (1 + FINALS_SHARE)
    seconds = n_trials * (TRIAL_SECONDS + EPOCH_SECONDS * epochs)
    for one in plan.selection.candidates:
        n_each = n_trials / len(plan.selection.candidates) / len(one.profiles)
        for profile in one.profiles:
            chain = load_stages(one.backbone, one.weights, pretrained=False)
            speed = measure_speed(chain, profile.pixels, one.depths, torch.device(plan.selection.device))
            if one.cuts:
                n_missing = missing[one.backbone.name, profile.pixels] if missing else _all_views(plan)
                seconds += speed.forward * n_missing
            seconds += _epoch_seconds(plan, one, profile, speed) * epochs * n_each
    return seconds


def measure_speed(chain: nn.Sequential, pixels: int, depths: Sequence[int], device: torch.device) -> MachineSpeed:
    """Run a chain (with any weights) on blank pictures, twice per measurement; the second run is timed."""
    chain = chain.eval().to(device).to(memory_format=torch.channels_last)
    x = channels_last(torch.zeros(BATCH, 3, pixels, pixels, device=device))
    inputs: list[Tensor] = [x]
    with torch.no_grad():
        for stage in chain:
            inputs.append(stage(inputs[-1]))
        forward = _seconds(lambda: chain(x).sum().item())
    features = inputs[-1].shape[1]
    steps, cleans = {}, {}
    for depth in depths:
        cut = len(chain) - depth
        net = nn.Sequential(copy.deepcopy(chain[cut:]), nn.Linear(features, CLASSES)).to(device)
        steps[depth] = _seconds(_step(net, inputs[cut], bfloat16_pays(net[0], device)))
        with torch.no_grad():
            cleans[depth] = _seconds(lambda net=net, x=inputs[cut]: net(x).sum().item())  # type: ignore[misc]
    return MachineSpeed(forward, steps, cleans)


def _all_views(plan: Plan) -> int:
    """Return the number of pictures missing from an empty feature cache, counted once per view."""
    return len(plan.split.part(TRAIN)) * (1 + N_VIEWS) + len(plan.split.part(VALIDATION))


def _epoch_seconds(plan: Plan, one: Candidate, profile: StageProfile, speed: MachineSpeed) -> float:
    """Return the seconds of an epoch at the median depth, because the search soon avoids poor depths."""
    n_train, n_validation = len(plan.split.part(TRAIN)), len(plan.split.part(VALIDATION))
    cached = plan.cuts.get((one.backbone.name, profile.pixels))
    return statistics.median(
        n_train * speed.steps[depth]
        + 2 * n_validation * speed.cleans[depth]
        + n_train * _frozen_seconds(speed, profile, depth, cached)
        for depth in one.depths
    )


def _frozen_seconds(speed: MachineSpeed, profile: StageProfile, depth: int, cached: Sequence[int] | None) -> float:
    """Return the seconds per picture and epoch in the frozen stages: 0 if their output is cached."""
    cut = profile.stages - depth
    return 0.0 if cached is None or cut in cached else speed.forward - speed.cleans[depth]


def _step(net: nn.Module, x: Tensor, half: bool) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(net.parameters(), 1e-6)
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def step() -> float:
        net.eval()  # again: some of timm's modules then drop tensors that they kept with their gradients
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            loss = functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def _seconds(work: Callable[[], object]) -> float:
    """Time one batch after a warm-up batch. Returns seconds per picture."""
    work()
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / BATCH
