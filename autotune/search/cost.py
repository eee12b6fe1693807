"""Cost of a study in operations and bytes, counted before it starts; decides which cuts are cached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.backbones.profile import StageProfile
from autotune.cache import eviction
from autotune.cache.features import N_VIEWS
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.search.candidates import Selection
from autotune.search.ranges import Fixed
from autotune.search.settings import Settings
from autotune.training.context import resident_bytes
from autotune.training.params import Params

FINALS_SHARE = 1 / 2  # of the work of the feature cache and the trials
EPOCHS_SHARE = 0.6  # of the maximum number of epochs: the average per trial
MOST_BYTES = 8 * 2**30  # of one cut's features, if a GPU's memory holds no more; larger cuts are not cached
# Cost of a byte written or read, in operations: the ratio of common rates. Not measured, because the decision must be
# reproducible.
OPERATIONS_A_BYTE = {"cpu": 200, "mps": 1000, "cuda": 5000}
EPOCHS = 4, 12  # the fewest and the most by default
PICTURES = 6000  # that even a costly trial trains on, over all epochs
# Operations that a trial of the most unfrozen stages may cost by default, if they are more than those of PICTURES.
TRIAL_OPERATIONS = {"cpu": 3e12, "mps": 5e13, "cuda": 2.5e14}

Cuts = Mapping[tuple[str, int], tuple[int, ...]]  # the cuts that are cached, by backbone and size


@dataclass(frozen=True)
class ExpectedShare:
    """Expected share of one backbone at one size. trials: per depth. augmented: whether they may augment."""

    n_train: int
    n_validation: int
    epochs: int
    trials: float
    augmented: bool

    @property
    def pictures(self) -> float:
        """Pictures that the trials of one depth process: in each epoch, the training set and two clean samples."""
        return self.all_epochs * (self.n_train + 2 * self.n_validation)

    @property
    def all_epochs(self) -> float:
        return self.trials * max(self.epochs * EPOCHS_SHARE, 1)

    @property
    def n_views(self) -> int:
        """Augmented views per training picture."""
        return N_VIEWS * self.augmented

    @property
    def n_rows(self) -> int:
        """Rows of one cached cut: all views of the training pictures, the clean view of the validation pictures."""
        return self.n_train * (1 + self.n_views) + self.n_validation


@dataclass(frozen=True)
class CutCost:
    """Operations with and without caching the output of the first `number` stages.

    n_bytes, most_bytes: on disk, in half precision, and how many there may be.
    """

    number: int
    cached: float
    uncached: float
    n_bytes: int
    most_bytes: int

    @property
    def pays(self) -> bool:
        return self.n_bytes <= self.most_bytes and self.cached < self.uncached


def cut_cost(profile: StageProfile, number: int, share: ExpectedShare, device: str) -> CutCost:
    """Count the operations of trials that freeze the first `number` stages, with and without caching their output."""
    forward = sum(profile.operations[:number])
    row_bytes = bytes_per_row(profile, number)
    n_rows = share.n_rows
    per_byte = OPERATIONS_A_BYTE[device.partition(":")[0]]
    cached = forward * n_rows + per_byte * row_bytes * (n_rows + share.pictures)
    return CutCost(number, cached, forward * share.pictures, row_bytes * n_rows, most_bytes(device))


def most_bytes(device: str) -> int:
    """Return the largest size of a cut that is cached: what stays in a GPU's memory, if the cache may be that large."""
    return max(MOST_BYTES, min(resident_bytes(device), eviction.limit()))


def bytes_per_row(profile: StageProfile, number: int) -> int:
    """Return the size of the first `number` stages' output for one picture, in half precision."""
    return 2 * math.prod(profile.shapes[number - 1])


def trial_operations(profile: StageProfile, depth: int, share: ExpectedShare, is_cached: bool) -> float:
    """Count the operations of one depth's trials: three forward passes of the tail per step, one per evaluation."""
    tail = profile.tail_operations(depth)
    frozen = 0.0 if is_cached else share.pictures * (sum(profile.operations) - tail)
    return share.all_epochs * tail * (3 * share.n_train + 2 * share.n_validation) + frozen


def training_operations(profile: StageProfile, depth: int, pictures: float, is_cached: bool) -> float:
    """Count the operations of training on this many pictures over all epochs, at one depth."""
    tail = profile.tail_operations(depth)
    return pictures * (3 * tail + (0.0 if is_cached else sum(profile.operations) - tail))


def epochs_for(selection: Selection, n_train: int) -> int:
    """Return the default epochs of a study. n_train: training pictures.

    Few epochs cost accuracy where pictures are cheap, so it follows from counted work, on the costliest backbone.
    """
    costliest = max(
        training_operations(profile, max(one.depths), 1, is_cached=True)
        for one in selection.candidates
        for profile in one.profiles
    )
    affordable = TRIAL_OPERATIONS[selection.device.partition(":")[0]] / max(costliest, 1)
    least, most = EPOCHS
    return min(max(round(max(affordable, PICTURES) / n_train), least), most)


def expected_operations(selection: Selection, cuts: Cuts, shares: Mapping[tuple[str, int], ExpectedShare]) -> float:
    """Count the operations of all trials of the shares. cuts: those that are cached."""
    return sum(
        trial_operations(profile, depth, shares[key], one.n_stages - depth in cuts.get(key, ()))
        for one in selection.candidates
        for profile in one.profiles
        for key in [(one.backbone.name, profile.pixels)]
        for depth in one.depths
    )


def picture_operations(selection: Selection, cuts: Cuts, recipe: Params | None) -> dict[tuple[str, int, int], float]:
    """Count the operations of training on a picture once, by backbone, size and number of unfrozen stages.

    The head alone is counted, too, because it may be trained first, and so are the depths of the recipe.
    """
    added = {one.depth for one in recipe.phases} if recipe else set()
    return {
        (one.backbone.name, profile.pixels, depth): training_operations(
            profile, depth, 1, one.n_stages - depth in cuts.get((one.backbone.name, profile.pixels), ())
        )
        for one in selection.candidates
        for profile in one.profiles
        for depth in {
            *one.depths,
            *(() if one.backbone.traits.from_scratch else (0,)),
            *(added if recipe and one.backbone.name == recipe.backbone else ()),
        }
    }


def expected_shares(
    selection: Selection, settings: Settings, split: Split, n_trials: float
) -> dict[tuple[str, int], ExpectedShare]:
    """Return the share of each backbone and size if trials are distributed evenly."""
    share = ExpectedShare(
        n_train=len(split.part(TRAIN)),
        n_validation=len(split.part(VALIDATION)),
        epochs=settings.n_epochs,
        trials=0,
        augmented=settings.space.augment not in (Fixed(0), Fixed(0.0)),
    )
    return {
        (one.backbone.name, profile.pixels): replace(
            share, trials=n_trials / len(selection.candidates) / len(one.profiles) / len(one.depths)
        )
        for one in selection.candidates
        for profile in one.profiles
    }


def count_cuts(
    selection: Selection, settings: Settings, split: Split, n_trials: int
) -> dict[tuple[str, int], list[CutCost]]:
    """Return the cost of each cut over n trials, for each pretrained backbone and size."""
    costs = {}
    shares = expected_shares(selection, settings, split, n_trials)
    for one in selection.candidates:
        for profile in one.profiles if one.cuts else ():
            key = one.backbone.name, profile.pixels
            share = replace(shares[key], trials=max(shares[key].trials, 1))
            costs[key] = [cut_cost(profile, cut, share, selection.device) for cut in one.cuts]
    return costs


def choose_cuts(selection: Selection, settings: Settings, split: Split, n_trials: int) -> Cuts:
    """Return the cuts to cache, by backbone and size."""
    n_stages = {one.backbone.name: one.n_stages for one in selection.candidates}
    costs = count_cuts(selection, settings, split, n_trials)
    return {(name, pixels): cuts_to_cache(cuts, n_stages[name]) for (name, pixels), cuts in costs.items()}


def cuts_to_cache(cuts: Sequence[CutCost], n_stages: int) -> tuple[int, ...]:
    """Return the cuts to cache. The cut after the last stage is always cached: the probe needs it."""
    return tuple(one.number for one in cuts if one.number == n_stages or one.pays)


def describe_cut(backbone: str, pixels: int, one: CutCost, n_stages: int) -> str:
    """Describe one caching decision, for `--verbose`."""
    verdict = "cached" if one.pays or one.number == n_stages else "computed every epoch"
    return (
        f"{backbone} at {pixels} pixels, after stage {one.number} of {n_stages}: {verdict}; {one.cached / 1e12:.3g} T "
        f"operations with {one.n_bytes / 1e6:.3g} MB of cached features, {one.uncached / 1e12:.3g} T without."
    )
