"""Work: what a study costs, counted beforehand in operations and bytes; it decides which cuts have a bank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.backbones.profile import StageProfile
from autotune.cache.features import N_VIEWS

EPOCHS_SHARE = 0.6  # of the epochs allowed, what a trial takes on average
MOST_BYTES = 8 * 2**30  # of one cut's bank; above it, there is none
# What a byte written or read weighs beside an operation: the ratio of common rates, and never one measured here,
# because what is decided must not vary from run to run.
OPERATIONS_A_BYTE = {"cpu": 200, "mps": 1000, "cuda": 5000}


@dataclass(frozen=True)
class ExpectedShare:
    """What falls to one backbone at one size. n_rest: validation pictures. trials: expected at each depth."""

    n_train: int
    n_rest: int
    epochs: int
    trials: float
    augmented: bool

    @property
    def seen(self) -> float:
        """Pictures that one depth's trials take in: each epoch all for training, and two clean samples."""
        return self.all_epochs * (self.n_train + 2 * self.n_rest)

    @property
    def all_epochs(self) -> float:
        return self.trials * max(self.epochs * EPOCHS_SHARE, 1)

    @property
    def n_rows(self) -> int:
        """Of one cut's bank: every training picture in every view, every validation picture as it is."""
        return self.n_train * (1 + N_VIEWS * self.augmented) + self.n_rest


@dataclass(frozen=True)
class CutCost:
    """One cut's two costs, in operations. n_bytes: of its bank on disk, half precision."""

    number: int
    banked: float
    fresh: float
    n_bytes: int

    @property
    def pays(self) -> bool:
        return self.n_bytes <= MOST_BYTES and self.banked < self.fresh


def cut_cost(profile: StageProfile, number: int, share: ExpectedShare, device: str) -> CutCost:
    """Count both ways to serve trials that train what comes after the first `number` stages."""
    forward = sum(profile.operations[:number])
    row_bytes = bytes_a_row(profile, number)
    n_rows = share.n_rows
    a_byte = OPERATIONS_A_BYTE[device.partition(":")[0]]
    banked = forward * n_rows + a_byte * row_bytes * (n_rows + share.seen)
    return CutCost(number, banked, forward * share.seen, row_bytes * n_rows)


def bytes_a_row(profile: StageProfile, number: int) -> int:
    """Of the first `number` stages' output for one picture, in half precision."""
    return 2 * math.prod(profile.shapes[number - 1])


def trial_operations(profile: StageProfile, depth: int, share: ExpectedShare, is_banked: bool) -> float:
    """Operations of one depth's trials. A training step costs three forward passes of the tail, a measurement one."""
    tail = profile.tail_operations(depth)
    frozen = 0.0 if is_banked else share.seen * (sum(profile.operations) - tail)
    return share.all_epochs * tail * (3 * share.n_train + 2 * share.n_rest) + frozen


def cuts_to_cache(cuts: Sequence[CutCost], stages: int) -> tuple[int, ...]:
    """The cuts that have a bank. The features' own always has: the probe needs it."""
    return tuple(one.number for one in cuts if one.number == stages or one.pays)


def describe_cut(backbone: str, pixels: int, one: CutCost, stages: int) -> str:
    """One decision, for those who ask."""
    verdict = "banked" if one.pays or one.number == stages else "computed every epoch"
    return (
        f"{backbone} at {pixels} pixels, after stage {one.number} of {stages}: {verdict}; {one.banked / 1e12:.3g} T "
        f"operations with a bank of {one.n_bytes / 1e6:.3g} MB, {one.fresh / 1e12:.3g} T without."
    )
