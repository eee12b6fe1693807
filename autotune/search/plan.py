"""The plan: which backbones take part, at which sizes and depths, on what device, and about how long it will take."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autotune.data.augment import Invariances
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.errors import ConfigError
from autotune.search.candidates import Selection
from autotune.search.cost import CutCost, ExpectedShare, cut_cost, cuts_to_cache
from autotune.search.ranges import Domain, Fixed, Range
from autotune.search.settings import Settings, epochs_for, narrow
from autotune.training.batches import LabelledPictures
from autotune.training.context import TrialContext

Cuts = Mapping[tuple[str, int], tuple[int, ...]]

ROOM_SHARE = 0.4  # of a GPU's memory; the rest is for training
DEVICES = ("auto", "cpu", "cuda", "mps")
UNEVEN = 1.5  # the largest class over the smallest from which weighing classes is searched
DEFAULT_TRIALS = 50


def pick_device(name: str) -> str:
    """The device that `auto` stands for, or the one named, if it is there. Raises ConfigError."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, index = name.partition(":")
    last = torch.cuda.device_count() - 1 if kind == "cuda" else -1
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there.get(kind, False) or (index and not (index.isdecimal() and int(index) <= last)):
        here = ", ".join(kind for kind, found in there.items() if found)
        raise ConfigError(f"There is no device {name!r} here.", f"Choose from: auto, {here}.")
    return name


def class_weight_range(counts: Mapping[str, int]) -> Domain:
    """Rare classes' weight is searched where classes are uneven; else it would change nothing."""
    return Range(0.0, 1.0) if max(counts.values()) > UNEVEN * min(counts.values()) else Fixed(0.0)


def resolve_settings(settings: Settings, parts: Split) -> Settings:
    """Settings with what the training pictures decide filled in: epochs, and whether to weigh rare classes."""
    train = parts.part(TRAIN)
    ranged = settings.space.class_weight or class_weight_range(Counter(p.label for p in train))
    epochs = settings.epochs or epochs_for(len(train))
    return narrow(settings.model_copy(update={"epochs": epochs}), class_weight=ranged)


def expected_shares(
    chosen: Selection, settings: Settings, parts: Split, trials: int
) -> dict[tuple[str, int], ExpectedShare]:
    """What falls to each backbone and size where trials are dealt out evenly."""
    share = ExpectedShare(
        n_train=len(parts.part(TRAIN)),
        n_rest=len(parts.part(VALIDATION)),
        epochs=settings.n_epochs,
        trials=0,
        augmented=settings.space.augment not in (Fixed(0), Fixed(0.0)),
    )
    return {
        (one.backbone.name, profile.pixels): replace(
            share, trials=trials / len(chosen.candidates) / len(one.profiles) / len(one.depths)
        )
        for one in chosen.candidates
        for profile in one.profiles
    }


def count_cuts(
    chosen: Selection, settings: Settings, parts: Split, trials: int
) -> dict[tuple[str, int], list[CutCost]]:
    """For each pretrained backbone and size, what banking each of its cuts costs and saves in so many trials."""
    found = {}
    dealt = expected_shares(chosen, settings, parts, trials)
    for one in chosen.candidates:
        for profile in one.profiles if one.cuts else ():
            key = one.backbone.name, profile.pixels
            each = replace(dealt[key], trials=max(dealt[key].trials, 1))
            found[key] = [cut_cost(profile, cut, each, chosen.device) for cut in one.cuts]
    return found


def choose_cuts(chosen: Selection, settings: Settings, parts: Split, trials: int = DEFAULT_TRIALS) -> Cuts:
    """The cuts that are banked, by backbone and size."""
    stages = {one.backbone.name: one.profiles[0].stages for one in chosen.candidates}
    return {
        key: cuts_to_cache(cuts, stages[key[0]]) for key, cuts in count_cuts(chosen, settings, parts, trials).items()
    }


def build_context(
    settings: Settings, parts: Split, chosen: Selection, n_workers: int, folder: Path, cuts: Cuts
) -> TrialContext:
    """What workers are told. The test part stays here."""
    return TrialContext(
        classes=len(parts.classes),
        train=_labelled(parts.part(TRAIN), parts.classes),
        validation=_labelled(parts.part(VALIDATION), parts.classes),
        gap_sample=_labelled(parts.gap_sample, parts.classes),
        backbones={one.backbone.name: (one.backbone, one.weights) for one in chosen.candidates},
        cuts=dict(cuts),
        room=_room(chosen.device) // n_workers,
        invariances=Invariances(settings.flips, settings.angle),
        metric=settings.metric,
        epochs=settings.n_epochs,
        cycle_epochs=settings.cycle_length,
        patience=settings.patience,
        gap=settings.gap,
        seed=settings.seed,
        device=chosen.device,
        threads=max(1, (os.cpu_count() or 1) // n_workers),
        folder=folder.resolve(),
    )


def _room(device: str) -> int:
    """Bytes of a GPU's memory for rows: by what it has in all, because what is free varies from run to run."""
    if not device.startswith("cuda"):
        return 0  # a CPU reads the map as fast
    return int(ROOM_SHARE * torch.cuda.get_device_properties(torch.device(device)).total_memory)


def _labelled(pictures: Sequence[Picture], classes: Sequence[str]) -> LabelledPictures:
    numbers = {name: number for number, name in enumerate(classes)}
    return LabelledPictures(tuple(p.digest for p in pictures), tuple(numbers[p.label] for p in pictures))
