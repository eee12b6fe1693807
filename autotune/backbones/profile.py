"""The profile of a backbone: the parameters, operations and output shape of each stage, counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autotune.backbones.spec import Backbone
from autotune.errors import PluginError
from autotune.text import first_line

N_BLANK = 2  # pictures of a profile: with one, a stage that ignores its batch would pass
CPU_TAIL_SHARE = 0.4  # of a forward pass's operations: the most that the unfrozen stages may take on a CPU
SMALL_TAIL_SHARE = 0.75  # the same for small pictures: the first stages take more time than their operations suggest


@dataclass(frozen=True)
class StageProfile:
    """The stages of a backbone at one size. operations: per stage, for one picture's forward pass; a multiply-add is 2.

    shapes: of each stage's output for one picture; the last is (F,).
    """

    pixels: int
    parameters: tuple[int, ...]
    operations: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def stages(self) -> int:
        return len(self.parameters)

    @property
    def features(self) -> int:
        return self.shapes[-1][0]

    def tail_operations(self, depth: int) -> int:
        """Return the operations of one picture's forward pass through the last `depth` stages."""
        return sum(self.operations[self.stages - depth :]) if depth else 0

    @property
    def half_precision_cuts(self) -> tuple[int, ...]:
        """The cuts (numbers of frozen stages) at which features are rounded to half precision before the next stage.

        At these cuts the unfrozen stages take at most 40 % of the operations; rounding earlier would cost accuracy.
        """
        most = CPU_TAIL_SHARE * sum(self.operations)
        return tuple(self.stages - depth for depth in self.depths(most) if 0 < depth < self.stages)

    def depths(self, most: float) -> tuple[int, ...]:
        """Return the depths whose unfrozen stages take at most this many operations for one picture."""
        return tuple(depth for depth in range(self.stages + 1) if self.tail_operations(depth) <= most)

    def cpu_depths(self, own_pixels: int) -> tuple[int, ...]:
        """Return the depths searched by default on a CPU. own_pixels: the default size of the backbone.

        The unfrozen stages take at most 40 % of the operations that a picture of this size takes, so small pictures,
        such as CIFAR-10's, allow up to 75 % of their own: they gain the most by it (benchmarks/levers.txt).
        """
        larger = max(own_pixels / self.pixels, 1) ** 2
        share = min(CPU_TAIL_SHARE * larger, SMALL_TAIL_SHARE)
        return self.depths(share * sum(self.operations))


@torch.no_grad()
def profile_stages(entry: Backbone, chain: nn.Sequential, pixels: int) -> StageProfile:
    """Run two blank pictures through each stage in turn. Raises PluginError if the output is not a feature vector."""
    x = torch.zeros(N_BLANK, 3, pixels, pixels)
    operations, shapes = [], []
    chain.eval()
    for number, stage in enumerate(chain):
        try:
            with FlopCounterMode(display=False) as counter, _countable_attention():
                x = _detached_output(stage, x)
            shapes.append(tuple(x.shape[1:]))
        except (Exception, SystemExit) as error:  # plugins can raise any exception
            raise PluginError(
                f"Stage {number} of backbone {entry.name!r} fails at {pixels} pixels: {first_line(error)}",
                f"Use another size (its default is {entry.traits.pixels}), or fix {entry.file}.",
            ) from error
        if len(x) != N_BLANK:
            raise PluginError(
                f"Stage {number} of backbone {entry.name!r} returns {len(x)} rows for {N_BLANK} pictures.",
                f"Return one row per picture in {entry.file}.",
            )
        operations.append(counter.get_total_flops() // N_BLANK)
    stated = entry.traits.features
    if len(shapes[-1]) != 1 or (stated is not None and shapes[-1] != (stated,)):
        raise PluginError(
            f"Backbone {entry.name!r} returns shape {shapes[-1]} per picture, not ({stated or 'F'},).",
            f"End its last stage with pooling and nn.Flatten(1), and set features= correctly in {entry.file}.",
        )
    parameters = tuple(sum(p.numel() for p in stage.parameters()) for stage in chain)
    return StageProfile(pixels, parameters, tuple(operations), tuple(shapes))


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Compute attention as plain matrix products: the counter does not support the fused kernels of CPUs."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _detached_output(stage: nn.Module, x: Tensor) -> Tensor:
    """Return a stage's output with detached parameters: the counter fails on parameters passed as module inputs."""
    out: Tensor = functional_call(stage, {name: p.detach() for name, p in stage.named_parameters()}, (x,))
    return out
