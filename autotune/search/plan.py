"""The plan of a study: backbones, resolved settings, cached cuts, and the context sent to workers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from autotune.data.augment import Invariances
from autotune.data.folds import assign_folds, assign_folds_by_picture
from autotune.data.picture import Picture
from autotune.data.split import TRAIN, VALIDATION, Split
from autotune.errors import ConfigError
from autotune.search.candidates import Selection
from autotune.search.cost import Cuts, choose_cuts, epochs_for
from autotune.search.ranges import Domain, Fixed, Range
from autotune.search.recipe import recipe_params
from autotune.search.settings import Settings, narrow
from autotune.training.batches import LabelledPictures
from autotune.training.context import TrialContext, resident_bytes
from autotune.training.params import Params

UNEVEN = 1.5  # ratio of the largest to the smallest class above which class weights are searched
DEFAULT_TRIALS = 50


@dataclass(frozen=True)
class Plan:
    """The plan of a study. settings: resolved for its pictures. cuts: those to cache. recipe: the first trial."""

    split: Split
    settings: Settings
    selection: Selection
    cuts: Cuts
    recipe: Params | None = None


@dataclass(frozen=True)
class Chosen:
    """What a study chooses once, at its start, because results depend on it. cuts: {} if they are not chosen yet."""

    epochs: int
    cuts: Cuts


def make_plan(settings: Settings, split: Split, selection: Selection, n_trials: int = DEFAULT_TRIALS,
              chosen: Chosen | None = None) -> Plan:  # fmt: skip
    """Resolve the settings and choose the cuts to cache. chosen: in an earlier run of the study."""
    if chosen:
        settings = settings.model_copy(update={"epochs": chosen.epochs})
    settings = resolve_settings(settings, split, selection)
    cuts = (chosen and chosen.cuts) or choose_cuts(selection, settings, split, n_trials)
    return Plan(split, settings, selection, cuts, recipe_params(settings, selection))


def pick_device(name: str) -> str:
    """Resolve `auto`, or check that the named device is available. Raises ConfigError."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, index = name.partition(":")
    last = torch.cuda.device_count() - 1 if kind == "cuda" else -1
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    if not available.get(kind, False) or (index and not (index.isdecimal() and int(index) <= last)):
        names = ", ".join(kind for kind, found in available.items() if found)
        raise ConfigError(f"Device {name!r} is not available.", f"Choose from: auto, {names}.")
    return name


def class_weight_range(counts: Mapping[str, int]) -> Domain:
    """Return the default range: searched for imbalanced classes, else 0. counts: pictures per class."""
    return Range(0.0, 1.0) if max(counts.values()) > UNEVEN * min(counts.values()) else Fixed(0.0)


def resolve_settings(settings: Settings, split: Split, selection: Selection) -> Settings:
    """Fill in the settings that depend on the pictures and backbones: epochs, and the range of class weights."""
    train = split.part(TRAIN)
    ranged = settings.space.class_weight or class_weight_range(Counter(p.label for p in train))
    epochs = settings.epochs or epochs_for(selection, len(train))
    return narrow(settings.model_copy(update={"epochs": epochs}), class_weight=ranged)


def build_context(plan: Plan, device: str | None = None) -> TrialContext:
    """Build the context of trials: no picture paths, nothing of the test set.

    device: of this process, by default the plan's. An engine sends each worker its own device, threads and memory.
    """
    split, settings, device = plan.split, plan.settings, device or plan.selection.device
    return TrialContext(
        classes=len(split.classes),
        train=_labelled(split.part(TRAIN), split.classes),
        validation=_labelled(split.part(VALIDATION), split.classes),
        gap_sample=_labelled(split.gap_sample, split.classes),
        folds=assign_folds(split),
        folds_by_picture=assign_folds_by_picture(split) if split.visits.n else (),
        backbones={one.backbone.name: (one.backbone, one.weights) for one in plan.selection.candidates},
        cuts=dict(plan.cuts),
        resident_bytes=resident_bytes(device),
        invariances=Invariances(settings.flips, settings.angle),
        metric=settings.metric,
        epochs=settings.n_epochs,
        cycle_epochs=settings.cycle_length,
        patience=settings.patience,
        gap=settings.gap,
        seed=settings.seed,
        device=device,
        threads=os.cpu_count() or 1,
    )


def _labelled(pictures: Sequence[Picture], classes: Sequence[str]) -> LabelledPictures:
    numbers = {name: number for number, name in enumerate(classes)}
    return LabelledPictures(tuple(p.digest for p in pictures), tuple(numbers[p.label] for p in pictures))
