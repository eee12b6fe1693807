"""The anatomy of a backbone: what each stage costs, holds and hands on, counted and not timed."""

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

CPU_SHARE = 0.4


@dataclass(frozen=True)
class StageProfile:
    """A chain at one size. operations: of one picture's forward pass (2 per multiply-add), a stage.

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
        """Of one picture's forward pass through the last `depth` stages."""
        return sum(self.operations[self.stages - depth :]) if depth else 0

    @property
    def joints(self) -> tuple[int, ...]:
        """The last stages at which a bank may be cut at half precision: below each tail of at most 40 % of the work."""
        return tuple(self.stages - depth for depth in self.depths(on_cpu=True) if 0 < depth < self.stages)

    def depths(self, on_cpu: bool) -> tuple[int, ...]:
        """The depths searched by default: all, or on a CPU those whose tail is at most 40 % of the forward work."""
        most = CPU_SHARE * sum(self.operations) if on_cpu else float("inf")
        return tuple(depth for depth in range(self.stages + 1) if self.tail_operations(depth) <= most)


@torch.no_grad()
def profile_stages(entry: Backbone, chain: nn.Sequential, pixels: int) -> StageProfile:
    """Run one blank picture through, stage by stage. Raises PluginError where the output is no feature vector."""
    x = torch.zeros(1, 3, pixels, pixels)
    operations, shapes = [], []
    chain.eval()
    for number, stage in enumerate(chain):
        try:
            with FlopCounterMode(display=False) as counter, _every_operation_visible():
                x = _frozen(stage, x)
            shapes.append(tuple(x.shape[1:]))
        except Exception as error:  # whatever the plugin's code raises
            raise PluginError(
                f"Stage {number} of backbone {entry.name!r} fails at {pixels} pixels: {first_line(error)}",
                f"Use another size (it is made for {entry.traits.pixels}), or mend {entry.file}.",
            ) from error
        operations.append(counter.get_total_flops())
    said = entry.traits.features
    if len(shapes[-1]) != 1 or (said is not None and shapes[-1] != (said,)):
        raise PluginError(
            f"Backbone {entry.name!r} gives {shapes[-1]} a picture, not ({said or 'F'},).",
            f"Let its last stage end in pooling and nn.Flatten(1), and state its features in {entry.file}.",
        )
    parameters = tuple(sum(p.numel() for p in stage.parameters()) for stage in chain)
    return StageProfile(pixels, parameters, tuple(operations), tuple(shapes))


@contextmanager
def _every_operation_visible() -> Iterator[None]:
    """Attention as plain products: the counter does not know the fast forms that a CPU has for it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _frozen(stage: nn.Module, x: Tensor) -> Tensor:
    """A stage's output, its parameters detached: the counter cannot bear one that is handed to a module."""
    out: Tensor = functional_call(stage, {name: p.detach() for name, p in stage.named_parameters()}, (x,))
    return out
