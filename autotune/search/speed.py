"""The speed of a backbone on this machine, measured in about a second, to estimate how long a study takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from autotune.backbones.weights import load_stages
from autotune.cache.features import BATCH, channels_last
from autotune.search.plan import Plan
from autotune.training.process import prepare_process

TIMED = 2  # runs
CPU_BATCH = 8  # pictures: enough to measure a CPU; a GPU needs a whole batch


@dataclass(frozen=True)
class MachineSpeed:
    """stages: seconds per picture of the forward pass of each stage."""

    stages: tuple[float, ...]

    @property
    def forward(self) -> float:
        return sum(self.stages)

    def tail(self, depth: int) -> float:
        """Return the seconds per picture of the forward pass of the last `depth` stages."""
        return sum(self.stages[len(self.stages) - depth :])


Speeds = Mapping[tuple[str, int], MachineSpeed]  # by backbone and size


def measure_speeds(plan: Plan, name: str) -> Speeds:
    """Measure every backbone of a plan at every size. Nothing else should run meanwhile. name: of the device."""
    device = torch.device(name)
    prepare_process(device)
    speeds = {}
    for one in plan.selection.candidates:
        chain = load_stages(one.backbone, one.weights, pretrained=False)
        for profile in one.profiles:
            speeds[one.backbone.name, profile.pixels] = measure_speed(chain, profile.pixels, device)
    return speeds


@torch.no_grad()
def measure_speed(chain: nn.Sequential, pixels: int, device: torch.device) -> MachineSpeed:
    """Run a chain (with any weights) on blank pictures; return the shortest time of each stage after a first run."""
    n = CPU_BATCH if device.type == "cpu" else BATCH
    chain = chain.eval().to(device).to(memory_format=torch.channels_last)
    blank = channels_last(torch.zeros(n, 3, pixels, pixels, device=device))
    runs = []
    for _ in range(1 + TIMED):
        x, seconds = blank, []
        for stage in chain:
            start = time.perf_counter()
            x = stage(x)
            x.sum().item()  # waits for the device
            seconds.append((time.perf_counter() - start) / n)
        runs.append(seconds)
    return MachineSpeed(tuple(min(each) for each in zip(*runs[1:], strict=True)))
