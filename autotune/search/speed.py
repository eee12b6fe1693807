"""TODO"""

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
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.search.candidates import Selection
from autotune.search.cost import EPOCHS_SHARE
from autotune.search.plan import Cuts
from autotune.search.settings import Settings
from autotune.training.malloc import keep_freed_memory
from autotune.training.trainer import bfloat16_pays

pass
TRIAL_SECONDS = 0.3  # what a trial takes beside its arithmetic; for the estimate shown, nothing else
EPOCH_SECONDS = 0.03  # likewise an epoch


def estimate_seconds(plan: Selection, settings: Settings, trials: int, parts: Split, cuts: Cuts,
             missing: Mapping[tuple[str, int], int] | None = None) -> float:  # fmt: skip
    """About how many seconds so many trials will take: counted work, at rates measured now.

    missing: pictures that the bank of each backbone and size lacks, counted once a view; without it, all.
    """
    keep_freed_memory()
    n_train, n_rest = len(parts.part(TRAIN)), len(parts.part(VALIDATION))
    epochs = max(settings.n_epochs * EPOCHS_SHARE, 1)
    seconds = trials * (TRIAL_SECONDS + EPOCH_SECONDS * epochs)
    for one in plan.candidates:
        share = trials / len(plan.candidates) / len(one.profiles)
        for profile in one.profiles:
            chain = load_stages(one.backbone, one.weights, pretrained=False)
            found = measure_speed(chain, profile.pixels, one.depths, torch.device(plan.device))
            if one.cuts:
                every = n_train * (1 + N_VIEWS) + n_rest
                seconds += found.forward * (missing[one.backbone.name, profile.pixels] if missing else every)
            epoch = [
                n_train * found.steps[depth]
                + 2 * n_rest * found.cleans[depth]
                + _frozen_seconds(found, profile, depth, cuts.get((one.backbone.name, profile.pixels))) * n_train
                for depth in one.depths
            ]
            # The median depth, because the search soon leaves depths that bring nothing.
            seconds += statistics.median(epoch) * epochs * share
    return seconds


def _frozen_seconds(found: MachineSpeed, profile: StageProfile, depth: int, banked: Sequence[int] | None) -> float:
    """What an epoch spends on the frozen part of each picture: nothing where it is banked or there is none."""
    cut = profile.stages - depth
    return 0.0 if banked is None or cut in banked else found.forward - found.cleans[depth]


CLASSES = 10  # of the head that is timed; how many does not matter beside the tail


@dataclass(frozen=True)
class MachineSpeed:
    """Seconds a picture. forward: through all stages. steps, cleans: of one training step and of one measurement,
    through the last `depth` stages.
    """

    forward: float
    steps: dict[int, float]
    cleans: dict[int, float]


def measure_speed(chain: nn.Sequential, pixels: int, depths: Sequence[int], device: torch.device) -> MachineSpeed:
    """Run a chain (of any weights) on blank pictures, twice each way; the second counts."""
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


def _step(net: nn.Module, x: Tensor, half: bool) -> Callable[[], object]:
    optimizer = torch.optim.AdamW(net.parameters(), 1e-6)
    labels = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def step() -> float:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            loss = functional.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def _seconds(work: Callable[[], object]) -> float:
    """A picture's share of one batch's time, after one to warm up."""
    work()
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / BATCH
