"""The plan of a study: its backbones, its resolved settings, what is cached; and what its workers are told."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from autotune.data.augment import Invariances
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.errors import ConfigError
from autotune.search.candidates import Selection
from autotune.search.cost import Cuts, choose_cuts
from autotune.search.ranges import Domain, Fixed, Range
from autotune.search.settings import Settings, epochs_for, narrow
from autotune.training.batches import LabelledPictures
from autotune.training.context import TrialContext

RESIDENT_SHARE = 0.4  # of a GPU's memory, for rows; the rest is for training
UNEVEN = 1.5  # the largest class over the smallest from which class weights are searched
DEFAULT_TRIALS = 50


@dataclass(frozen=True)
class Plan:
    """What a study does with its pictures. settings: resolved by them. cuts: those whose features are cached."""

    split: Split
    settings: Settings
    selection: Selection
    cuts: Cuts


def make_plan(settings: Settings, split: Split, selection: Selection, n_trials: int = DEFAULT_TRIALS,
              cuts: Cuts | None = None) -> Plan:  # fmt: skip
    """Resolve the settings and decide what is cached, unless an earlier run has decided it: cuts."""
    settings = resolve_settings(settings, split)
    return Plan(split, settings, selection, cuts or choose_cuts(selection, settings, split, n_trials))


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
    """Searched where classes are uneven; else it would change nothing. counts: pictures by class."""
    return Range(0.0, 1.0) if max(counts.values()) > UNEVEN * min(counts.values()) else Fixed(0.0)


def resolve_settings(settings: Settings, split: Split) -> Settings:
    """Settings with what the training pictures decide filled in: epochs, and whether class weights are searched."""
    train = split.part(TRAIN)
    ranged = settings.space.class_weight or class_weight_range(Counter(p.label for p in train))
    epochs = settings.epochs or epochs_for(len(train))
    return narrow(settings.model_copy(update={"epochs": epochs}), class_weight=ranged)


def build_context(plan: Plan, n_workers: int) -> TrialContext:
    """What workers are told: no path of a picture, nothing of the test part."""
    split, settings, device = plan.split, plan.settings, plan.selection.device
    return TrialContext(
        classes=len(split.classes),
        train=_labelled(split.part(TRAIN), split.classes),
        validation=_labelled(split.part(VALIDATION), split.classes),
        gap_sample=_labelled(split.gap_sample, split.classes),
        backbones={one.backbone.name: (one.backbone, one.weights) for one in plan.selection.candidates},
        cuts=dict(plan.cuts),
        resident_bytes=_resident_bytes(device) // n_workers,
        invariances=Invariances(settings.flips, settings.angle),
        metric=settings.metric,
        epochs=settings.n_epochs,
        cycle_epochs=settings.cycle_length,
        patience=settings.patience,
        gap=settings.gap,
        seed=settings.seed,
        device=device,
        threads=max(1, (os.cpu_count() or 1) // n_workers),
    )


def _resident_bytes(device: str) -> int:
    """Bytes of a GPU's memory for rows: a share of its total, because what is free varies from run to run."""
    if not device.startswith("cuda"):
        return 0  # a CPU reads the memory map as fast
    return int(RESIDENT_SHARE * torch.cuda.get_device_properties(torch.device(device)).total_memory)


def _labelled(pictures: Sequence[Picture], classes: Sequence[str]) -> LabelledPictures:
    numbers = {name: number for number, name in enumerate(classes)}
    return LabelledPictures(tuple(p.digest for p in pictures), tuple(numbers[p.label] for p in pictures))
