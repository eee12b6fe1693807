"""Bare training loops to compare with: the unfrozen stages and a head, on data that is already in memory."""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotune.backbones.spec import Traits
from autotune.training.lightning.trainer import training_precision
from autotune.training.optimizers import build_optimizer

WARM = 3
PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def below(chain: nn.Sequential, cut: int, n: int, pixels: int, device: torch.device) -> Tensor:
    """Return random data (n, ...) with the output shape of the first `cut` stages, on the device, channels last."""
    with torch.no_grad():
        shape = chain[:cut].eval()(torch.zeros(1, 3, pixels, pixels)).shape[1:]
    x = torch.randn(n, *shape, device=device)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


class Tail:
    """A copy of the last `depth` stages and a new head, with an optimizer, on a device."""

    def __init__(self, chain: nn.Sequential, depth: int, features: int, classes: int, optimizer: str, traits: Traits,
                 device: torch.device) -> None:  # fmt: skip
        tail = copy.deepcopy(chain[len(chain) - depth :]).requires_grad_(True)
        self._precision = PRECISIONS[training_precision(tail, device)]
        tail.train(traits.from_scratch)  # otherwise BatchNorm statistics stay frozen
        self._net = nn.Sequential(tail, nn.Linear(features, classes)).to(device).to(memory_format=torch.channels_last)
        self._optimizer = build_optimizer(optimizer, self._net.parameters(), learning_rate=1e-5, weight_decay=1e-2)
        self._classes = classes
        self._device = device

    def step_seconds(self, x: Tensor, n: int) -> float:
        """Return the seconds per training step on x: the mean of n steps after a warm-up."""
        labels = torch.randint(0, self._classes, (len(x),), device=self._device)
        for run in range(WARM + n):
            if run == WARM:
                synchronise(self._device)
                start = time.perf_counter()
            with torch.autocast(self._device.type, self._precision, enabled=self._precision is not None):
                loss = functional.cross_entropy(self._net(x), labels)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
        synchronise(self._device)
        return (time.perf_counter() - start) / n

    @torch.no_grad()
    def clean_seconds(self, x: Tensor, n: int) -> float:
        """Return the seconds per float32 forward pass on x: the mean of n passes after a warm-up."""
        self._net.eval()
        return forward_seconds(self._net, x, n)


@torch.no_grad()
def forward_seconds(net: nn.Module, x: Tensor, n: int) -> float:
    for run in range(WARM + n):
        if run == WARM:
            synchronise(x.device)
            start = time.perf_counter()
        net(x)
    synchronise(x.device)
    return (time.perf_counter() - start) / n
