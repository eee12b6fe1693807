"""The profile of a backbone: the parameters, operations and output shape of each stage, counted and not timed."""

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

CPU_TAIL_SHARE = 0.4  # of a forward pass's operations: the most that a tail may need, where a CPU trains it


@dataclass(frozen=True)
class StageProfile:
    """The stages of a backbone at one size. operations: of one picture's forward pass, 2 per multiply-add.

    shapes: of a stage's output for one picture; the last is (F,).
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
        """Of one picture's forward pass through the last `depth` stages."""
        return sum(self.operations[self.stages - depth :]) if depth else 0

    @property
    def half_precision_cuts(self) -> tuple[int, ...]:
        """Cuts, as numbers of frozen stages, at which features are rounded to half precision before the next stage.

        They are those below tails of at most 40 % of the operations; rounding earlier would cost accuracy.
        """
        return tuple(self.stages - depth for depth in self.depths(on_cpu=True) if 0 < depth < self.stages)

    def depths(self, on_cpu: bool) -> tuple[int, ...]:
        """The depths searched by default: all, or on a CPU those whose tail has at most 40 % of the operations."""
        most = CPU_TAIL_SHARE * sum(self.operations) if on_cpu else float("inf")
        return tuple(depth for depth in range(self.stages + 1) if self.tail_operations(depth) <= most)


@torch.no_grad()
def profile_stages(entry: Backbone, chain: nn.Sequential, pixels: int) -> StageProfile:
    """Run one blank picture through each stage in turn. Raises PluginError where the output is no feature vector."""
    x = torch.zeros(1, 3, pixels, pixels)
    operations, shapes = [], []
    chain.eval()
    for number, stage in enumerate(chain):
        try:
            with FlopCounterMode(display=False) as counter, _countable_attention():
                x = _detached_output(stage, x)
            shapes.append(tuple(x.shape[1:]))
        except Exception as error:  # whatever the plugin's code raises
            raise PluginError(
                f"Stage {number} of backbone {entry.name!r} fails at {pixels} pixels: {first_line(error)}",
                f"Use another size (it is made for {entry.traits.pixels}), or fix {entry.file}.",
            ) from error
        operations.append(counter.get_total_flops())
    stated = entry.traits.features
    if len(shapes[-1]) != 1 or (stated is not None and shapes[-1] != (stated,)):
        raise PluginError(
            f"Backbone {entry.name!r} gives {shapes[-1]} a picture, not ({stated or 'F'},).",
            f"Let its last stage end in pooling and nn.Flatten(1), and state its features in {entry.file}.",
        )
    parameters = tuple(sum(p.numel() for p in stage.parameters()) for stage in chain)
    return StageProfile(pixels, parameters, tuple(operations), tuple(shapes))


@contextmanager
def _countable_attention() -> Iterator[None]:
    """Attention as plain matrix products: the counter does not know the fused kernels that a CPU has for it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _detached_output(stage: nn.Module, x: Tensor) -> Tensor:
    """A stage's output, computed with detached parameters: the counter fails on one that is passed to a module."""
    out: Tensor = functional_call(stage, {name: p.detach() for name, p in stage.named_parameters()}, (x,))
    return out
