"""Lesson: what every trial of a study shares, and what a process opens for it: backbones, banks, batches' sources."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from autotune.backbones.profile import StageProfile, profile_stages
from autotune.backbones.spec import Backbone
from autotune.backbones.weights import WeightsSource, load_stages
from autotune.cache.features import FeatureCache
from autotune.cache.pixels import pixel_rows
from autotune.cache.resident import ResidentPool
from autotune.data.augment import Invariances
from autotune.data.catalog import Progress
from autotune.data.prefetch import prefetch_count
from autotune.training.batches import BatchSource, FeatureSource, LabelledPictures, PixelSource, views_up_to
from autotune.training.malloc import keep_freed_memory
from autotune.training.params import Params


@dataclass(frozen=True)
class TrialContext:
    """What every trial of a study shares, as workers are told it: no path of a picture, nothing of the test part.

    cuts: for each backbone and size, the cuts its bank keeps (one pass computes them all); trials at others run their
    frozen part every epoch. room: bytes of the device for rows. folder: the study's, for checkpoints. refit_epochs:
    train for so many and keep the last, whatever validation says, because it is trained on.
    """

    classes: int
    train: LabelledPictures
    validation: LabelledPictures
    gap_sample: LabelledPictures
    backbones: dict[str, tuple[Backbone, WeightsSource]]
    cuts: dict[tuple[str, int], tuple[int, ...]]
    room: int
    invariances: Invariances
    metric: str
    epochs: int
    cycle_epochs: int
    patience: int
    gap: float
    seed: int
    device: str
    threads: int
    folder: Path
    refit_epochs: int | None = None


@dataclass
class LoadedBackbones:
    """The chains and banks that a worker has opened, kept from trial to trial."""

    context: TrialContext
    _profiles: dict[tuple[str, int], StageProfile] = field(default_factory=dict)
    _chains: dict[str, nn.Sequential] = field(default_factory=dict)
    _banks: dict[tuple[str, int], FeatureCache] = field(default_factory=dict)
    room: ResidentPool = field(init=False)

    def __post_init__(self) -> None:
        self.room = ResidentPool(self.device, self.context.room)
        keep_freed_memory()  # here, because whatever computes with a backbone opens it here first

    @property
    def device(self) -> torch.device:
        return torch.device(self.context.device)

    @property
    def ahead(self) -> int:
        return prefetch_count(self.device)

    def chain(self, name: str) -> nn.Sequential:
        if name not in self._chains:
            self._chains[name] = load_stages(*self.context.backbones[name]).eval()
        return self._chains[name]

    def profile(self, name: str, size: int) -> StageProfile:
        if (name, size) not in self._profiles:
            self._profiles[name, size] = profile_stages(self.context.backbones[name][0], self.chain(name), size)
        return self._profiles[name, size]

    def bank(self, name: str, size: int) -> FeatureCache:
        if (name, size) not in self._banks:
            entry, chain = self.context.backbones[name][0], self.chain(name)
            self._banks[name, size] = FeatureCache(
                name, chain, entry.traits, size, self.context.invariances, self.context.seed, self.device,
                self.context.cuts[name, size], self.profile(name, size).half_precision_cuts,
            )  # fmt: skip
        return self._banks[name, size]


def open_sources(
    backbones: LoadedBackbones, params: Params, banking: Progress
) -> tuple[BatchSource, BatchSource, BatchSource]:
    """Where training, validation and the gap's sample come from: a bank where one is kept for this cut."""
    context = backbones.context
    parts = (context.train.digests, context.validation.digests, context.gap_sample.digests)
    cut = len(backbones.chain(params.backbone)) - params.depth
    traits = context.backbones[params.backbone][0].traits
    room = backbones.room
    if cut == 0 or cut not in context.cuts[params.backbone, params.pixels]:
        rows = pixel_rows(params.pixels, traits.interpolation)
        fresh = [PixelSource(room.held(rows, part), part, context.seed) for part in parts]
        return fresh[0], fresh[1], fresh[2]
    bank = backbones.bank(params.backbone, params.pixels)
    views = list(views_up_to(params.augment))
    bank.fill((*parts[0], *parts[1]), [0], banking)
    bank.fill(parts[0], views[1:], banking)
    return (
        FeatureSource([room.held(bank.rows(cut, view), parts[0]) for view in views], context.invariances.flips),
        FeatureSource([room.held(bank.rows(cut, 0), parts[1])]),
        FeatureSource([room.held(bank.rows(cut, 0), parts[2])]),
    )


def probe_file(folder: Path, name: str, size: int) -> Path:
    return folder / "checkpoints" / f"probe-{name.replace(':', '-')}-{size}.safetensors"
