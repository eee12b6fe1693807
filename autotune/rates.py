"""Rates: how fast this machine runs a backbone, measured in a few seconds; for the time shown, never for a decision."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.bank import BATCH, laid_out
from autotune.training import half_pays

CLASSES = 10  # of the head that is timed; how many does not matter beside the tail


@dataclass(frozen=True)
class Rates:
    """Seconds a picture. forward: through all stages. steps, cleans: of one training step and of one measurement,
    through the last `depth` stages.
    """

    forward: float
    steps: dict[int, float]
    cleans: dict[int, float]


def measured(chain: nn.Sequential, pixels: int, depths: Sequence[int], device: torch.device) -> Rates:
    """Run a chain (of any weights) on blank pictures, twice each way; the second counts."""
    chain = chain.eval().to(device).to(memory_format=torch.channels_last)
    x = laid_out(torch.zeros(BATCH, 3, pixels, pixels, device=device))
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
        steps[depth] = _seconds(_step(net, inputs[cut], half_pays(net[0], device)))
        with torch.no_grad():
            cleans[depth] = _seconds(lambda net=net, x=inputs[cut]: net(x).sum().item())  # type: ignore[misc]
    return Rates(forward, steps, cleans)


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
