"""Data shared by all trials of a study, and what a process loads once for them: backbones, feature caches, sources."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
from autotune.training.params import Params
from autotune.training.process import prepare_process

RESIDENT_SHARE = 0.4  # of a GPU's memory, for rows; the rest is for training
SEARCHED = 0  # the fold that the trials are evaluated on: the validation set
WHOLE_POOL = -1  # in place of the number of a fold: no picture is held out


@dataclass(frozen=True)
class TrialContext:
    """Data shared by all trials of a study, as sent to workers: no picture paths, no folders, nothing of the test set.

    cuts: per backbone and size, the cuts in the feature cache (one pass computes them all); trials at other cuts
    compute their frozen stages every epoch. resident_bytes: the device memory that rows may fill. folds: the fold of
    each picture of the pool; fold 0 is the validation set. folds_by_picture: folds that ignore visits; empty if no
    visits are known.
    """

    classes: int
    train: LabelledPictures
    validation: LabelledPictures
    gap_sample: LabelledPictures
    folds: tuple[int, ...]
    folds_by_picture: tuple[int, ...]
    backbones: dict[str, tuple[Backbone, WeightsSource]]
    cuts: dict[tuple[str, int], tuple[int, ...]]
    resident_bytes: int
    invariances: Invariances
    metric: str
    epochs: int
    cycle_epochs: int
    patience: int
    gap: float
    seed: int
    device: str
    threads: int

    @property
    def pool(self) -> LabelledPictures:
        """All pictures except the test set: training, then validation."""
        return self.train + self.validation

    @property
    def n_folds(self) -> int:
        return max(self.folds) + 1

    def held_out(self, fold: int) -> LabelledPictures:
        """Return the pictures of a fold, in the order of the pool; none for WHOLE_POOL."""
        return self.pool.where([one == fold for one in self.folds])

    def trained_on(self, fold: int) -> LabelledPictures:
        """Return the pictures of all other folds; the whole pool for WHOLE_POOL."""
        return self.pool.where([one != fold for one in self.folds])

    def is_from_scratch(self, backbone: str) -> bool:
        """Return whether all stages of a backbone are trained from random weights."""
        return self.backbones[backbone][0].traits.from_scratch

    def on(self, device: str, threads: int, share: float) -> TrialContext:
        """Return the context of a worker that has some CPU threads, and a share of a device to itself."""
        return replace(self, device=device, threads=threads, resident_bytes=int(share * resident_bytes(device)))

    def starts_from_probe(self, params: Params) -> bool:
        """Return whether a trial's head is initialised from the linear probe of its backbone and size."""
        is_new = params.is_recipe or params.hidden or params.trains_head_first
        return params.depth > 0 and not (is_new or self.is_from_scratch(params.backbone))


def resident_bytes(device: str) -> int:
    """Return the bytes of a GPU's memory for rows: a share of the total, because free memory varies from run to run."""
    if not device.startswith("cuda") or not torch.cuda.is_available():  # the driver of a cluster may have no GPU
        return 0  # on a CPU, the memory map is as fast
    return int(RESIDENT_SHARE * torch.cuda.get_device_properties(torch.device(device)).total_memory)


@dataclass
class LoadedBackbones:
    """Stages and feature caches that a process has loaded, reused by its trials."""

    context: TrialContext
    resident: ResidentPool = field(init=False)
    _profiles: dict[tuple[str, int], StageProfile] = field(default_factory=dict, init=False)
    _chains: dict[str, nn.Sequential] = field(default_factory=dict, init=False)
    _frozen: dict[str, nn.Sequential] = field(default_factory=dict, init=False)
    _feature_caches: dict[tuple[str, int], FeatureCache] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        prepare_process(self.device)  # here, because all code that runs a backbone loads it through this class
        self.resident = ResidentPool(self.device, self.context.resident_bytes)

    @property
    def device(self) -> torch.device:
        return torch.device(self.context.device)

    @property
    def n_prefetch(self) -> int:
        """Number of batches to prepare ahead of training."""
        return prefetch_count(self.device)

    def chain(self, name: str) -> nn.Sequential:
        """Return the stages of a backbone on the CPU. Trials copy those that they train."""
        if name not in self._chains:
            chain = load_stages(*self.context.backbones[name]).eval().requires_grad_(False)
            self._chains[name] = chain.to(memory_format=torch.channels_last)
        return self._chains[name]

    def frozen(self, name: str) -> nn.Sequential:
        """Return the stages of a backbone on the device, which all trials share."""
        if name not in self._frozen:
            chain = self.chain(name)
            self._frozen[name] = chain if self.device.type == "cpu" else copy.deepcopy(chain).to(self.device)
        return self._frozen[name]

    def profile(self, name: str, pixels: int) -> StageProfile:
        if (name, pixels) not in self._profiles:
            self._profiles[name, pixels] = profile_stages(self.context.backbones[name][0], self.chain(name), pixels)
        return self._profiles[name, pixels]

    def feature_cache(self, name: str, pixels: int) -> FeatureCache:
        if (name, pixels) not in self._feature_caches:
            context, traits = self.context, self.context.backbones[name][0].traits
            self._feature_caches[name, pixels] = FeatureCache(
                name, self.frozen(name), traits, pixels, context.invariances, context.seed, self.device,
                context.cuts[name, pixels], self.profile(name, pixels).half_precision_cuts,
            )  # fmt: skip
        return self._feature_caches[name, pixels]


@dataclass(frozen=True)
class TrialSources:
    """Batch sources of one trial. clean: of the pictures it is evaluated on."""

    train: BatchSource
    clean: tuple[BatchSource, ...]


def open_sources(backbones: LoadedBackbones, params: Params, train: LabelledPictures,
                 clean: Sequence[LabelledPictures], progress: Progress) -> TrialSources:  # fmt: skip
    """Fill and return the feature cache if this trial's cut is cached; otherwise return decoded pixels.

    train: the pictures to augment. clean: the pictures to evaluate, in several parts.
    """
    cut = len(backbones.chain(params.backbone)) - params.depth
    if cut == 0 or cut not in backbones.context.cuts[params.backbone, params.pixels]:
        return _pixel_sources(backbones, params, train, clean)
    return _feature_sources(backbones, params, cut, train, clean, progress)


def _pixel_sources(backbones: LoadedBackbones, params: Params, train: LabelledPictures,
                   clean: Sequence[LabelledPictures]) -> TrialSources:  # fmt: skip
    context = backbones.context
    rows = pixel_rows(params.pixels, context.backbones[params.backbone][0].traits.interpolation)

    digests = [one.digests for one in (train, *clean)]
    held = backbones.resident.held([(rows, each) for each in digests])
    first, *others = (PixelSource(*one, context.seed, backbones.n_prefetch) for one in zip(held, digests, strict=True))
    return TrialSources(first, tuple(others))


def _feature_sources(backbones: LoadedBackbones, params: Params, cut: int, train: LabelledPictures,
                     clean: Sequence[LabelledPictures], progress: Progress) -> TrialSources:  # fmt: skip
    cache = backbones.feature_cache(params.backbone, params.pixels)
    views = list(views_up_to(params.augment))
    every = tuple(dict.fromkeys(digest for one in (train, *clean) for digest in one.digests))
    cache.fill({0: every, **dict.fromkeys(views[1:], train.digests)}, progress)
    rows = [(cache.rows(cut, view), train.digests) for view in views]
    held = backbones.resident.held([*rows, *((cache.rows(cut, 0), one.digests) for one in clean)])
    return TrialSources(
        FeatureSource(held[: len(views)], backbones.context.invariances.flips, backbones.n_prefetch),
        tuple(FeatureSource([one], n_prefetch=backbones.n_prefetch) for one in held[len(views) :]),
    )
