"""Lesson: what every trial of a study shares, and what a process opens for it: backbones, banks, batches' sources."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from autotune import memory, pixels, weights
from autotune.anatomy import Anatomy, examine
from autotune.augment import Subject
from autotune.bank import Bank
from autotune.batches import Banked, Fresh, Labelled, Source, views_up_to
from autotune.held import Room
from autotune.images import Progress
from autotune.params import Params
from autotune.plugins import Backbone
from autotune.ready import ahead_on
from autotune.weights import Weights


@dataclass(frozen=True)
class Lesson:
    """What every trial of a study shares, as workers are told it: no path of a picture, nothing of the test part.

    cuts: for each backbone and size, the cuts its bank keeps (one pass computes them all); trials at others run their
    frozen part every epoch. room: bytes of the device for rows. folder: the study's, for checkpoints. refit_epochs:
    train for so many and keep the last, whatever validation says, because it is trained on.
    """

    classes: int
    train: Labelled
    validation: Labelled
    gap_sample: Labelled
    backbones: dict[str, tuple[Backbone, Weights]]
    cuts: dict[tuple[str, int], tuple[int, ...]]
    room: int
    subject: Subject
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
class Backbones:
    """The chains and banks that a worker has opened, kept from trial to trial."""

    lesson: Lesson
    _anatomies: dict[tuple[str, int], Anatomy] = field(default_factory=dict)
    _chains: dict[str, nn.Sequential] = field(default_factory=dict)
    _banks: dict[tuple[str, int], Bank] = field(default_factory=dict)
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        self.room = Room(self.device, self.lesson.room)
        memory.hold()  # here, because whatever computes with a backbone opens it here first

    @property
    def device(self) -> torch.device:
        return torch.device(self.lesson.device)

    @property
    def ahead(self) -> int:
        return ahead_on(self.device)

    def chain(self, name: str) -> nn.Sequential:
        if name not in self._chains:
            self._chains[name] = weights.stages(*self.lesson.backbones[name]).eval()
        return self._chains[name]

    def anatomy(self, name: str, size: int) -> Anatomy:
        if (name, size) not in self._anatomies:
            self._anatomies[name, size] = examine(self.lesson.backbones[name][0], self.chain(name), size)
        return self._anatomies[name, size]

    def bank(self, name: str, size: int) -> Bank:
        if (name, size) not in self._banks:
            entry, chain = self.lesson.backbones[name][0], self.chain(name)
            self._banks[name, size] = Bank(
                name, chain, entry.traits, size, self.lesson.subject, self.lesson.seed, self.device,
                self.lesson.cuts[name, size], self.anatomy(name, size).joints,
            )  # fmt: skip
        return self._banks[name, size]


def sources(backbones: Backbones, params: Params, banking: Progress) -> tuple[Source, Source, Source]:
    """Where training, validation and the gap's sample come from: a bank where one is kept for this cut."""
    lesson = backbones.lesson
    parts = (lesson.train.digests, lesson.validation.digests, lesson.gap_sample.digests)
    cut = len(backbones.chain(params.backbone)) - params.depth
    traits = lesson.backbones[params.backbone][0].traits
    room = backbones.room
    if cut == 0 or cut not in lesson.cuts[params.backbone, params.pixels]:
        rows = pixels.store(params.pixels, traits.interpolation)
        fresh = [Fresh(room.held(rows, part), part, lesson.seed) for part in parts]
        return fresh[0], fresh[1], fresh[2]
    bank = backbones.bank(params.backbone, params.pixels)
    views = list(views_up_to(params.augment))
    bank.fill((*parts[0], *parts[1]), [0], banking)
    bank.fill(parts[0], views[1:], banking)
    return (
        Banked([room.held(bank.rows(cut, view), parts[0]) for view in views], lesson.subject.flips),
        Banked([room.held(bank.rows(cut, 0), parts[1])]),
        Banked([room.held(bank.rows(cut, 0), parts[2])]),
    )


def probe_file(folder: Path, name: str, size: int) -> Path:
    return folder / "checkpoints" / f"probe-{name.replace(':', '-')}-{size}.safetensors"
