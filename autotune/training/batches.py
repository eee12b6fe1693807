"""Batches for training and evaluation: cached features, or pixels augmented on each pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.cache.features import N_VIEWS
from autotune.cache.resident import ResidentRows, on_device
from autotune.data.augment import random_draws
from autotune.data.prefetch import prefetch

CLEAN_BATCH = 128

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures as workers receive them: digests and class numbers, without paths."""

    digests: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __add__(self, other: LabelledPictures) -> LabelledPictures:
        return LabelledPictures(self.digests + other.digests, self.labels + other.labels)

    def where(self, chosen: Sequence[bool]) -> LabelledPictures:
        """Return the pictures for which `chosen` is true."""
        return LabelledPictures(tuple(compress(self.digests, chosen)), tuple(compress(self.labels, chosen)))


class BatchSource(Protocol):
    """Inputs of a batch, in the form `FrozenPrefix` takes, for positions (N,) in a fixed list of pictures.

    device: of the rows. n_prefetch: batches to prepare in advance, in a thread.
    """

    device: torch.device
    n_prefetch: int

    def clean(self, positions: Positions) -> tuple[Tensor, ...]: ...

    def augmented(self, positions: Positions, strength: float, rng: np.random.Generator) -> tuple[Tensor, ...]: ...


class FeatureSource:
    """Cached features at one cut. Strength s draws uniformly from the clean view and the views of magnitude up to s.

    views: the clean one, then those of increasing magnitude. flips: the directions in which feature maps are also
    flipped at random, which costs nothing and is nearly what the frozen stages compute for a flipped picture.
    """

    def __init__(self, views: Sequence[ResidentRows], flips: str = "none", n_prefetch: int = 0) -> None:
        self._views = views
        self.device = views[0].device
        self.n_prefetch = 0 if views[0].is_resident else n_prefetch
        shape = views[0].shape
        is_map = len(shape) == 3 and shape[1] == shape[2]  # otherwise tokens, vectors or channels last
        self._is_flipped = [is_map and flips in options for options in (("horizontal", "both"), ("vertical", "both"))]

    def clean(self, positions: Positions) -> tuple[Tensor, ...]:
        return (self._views[0].take(positions),)

    def augmented(self, positions: Positions, strength: float, rng: np.random.Generator) -> tuple[Tensor, ...]:
        drawn = rng.integers(0, len(views_up_to(strength)), len(positions))
        by_view = np.argsort(drawn, kind="stable")
        parts = [self._views[view].take(positions[by_view[drawn[by_view] == view]]) for view in np.unique(drawn)]
        # Read in order of the views, and then in the order of the batch: on a GPU, writing to positions is slower.
        out = torch.cat(parts).index_select(0, on_device(np.argsort(by_view), self.device))
        if not strength or not any(self._is_flipped):
            return (out,)
        return out, torch.from_numpy((rng.random((len(positions), 2)) < 0.5) & self._is_flipped)


class PixelSource:
    """Decoded pixels, augmented on each pass: for networks from scratch, or if caching features does not pay off."""

    def __init__(self, pixels: ResidentRows, digests: tuple[str, ...], seed: int, n_prefetch: int = 0) -> None:
        self._pixels = pixels
        self.device = pixels.device
        self.n_prefetch = n_prefetch
        self._digests = digests
        self._seed = seed

    def clean(self, positions: Positions) -> tuple[Tensor, ...]:
        return (self._pixels.take(positions),)

    def augmented(self, positions: Positions, strength: float, rng: np.random.Generator) -> tuple[Tensor, ...]:
        magnitude = torch.from_numpy(rng.random(len(positions), np.float32) * np.float32(strength))
        views = rng.integers(0, 2**31, len(positions)).tolist()
        drawn = random_draws([self._digests[i] for i in positions], views, self._seed)
        return (*self.clean(positions), magnitude, drawn)


def views_up_to(strength: float) -> range:
    """Return the cached views for a strength: view 0 is clean, view v has magnitude v / N_VIEWS."""
    return range(int(strength * N_VIEWS + 1e-9) + 1)


class TrainBatches:
    """One epoch of shuffled, augmented batches per iteration. Order and views depend only on (seed, epoch).

    Lightning saves its state: a checkpoint taken within an epoch resumes at the next batch. together: batches that
    are yielded at a time, as a list; 1: alone.
    """

    def __init__(self, source: BatchSource, labels: tuple[int, ...], batch_size: int, strength: float, seed: int,
                 together: int = 1) -> None:  # fmt: skip
        self._source = source
        self._labels = np.array(labels, np.int64)
        self._batch_size = batch_size
        self._strength = strength
        self._seed = seed
        self.together = together
        self._epoch = 0
        self._next = 0

    @property
    def n_steps(self) -> int:
        """The number of batches of an epoch."""
        full, rest = divmod(len(self._labels), self._batch_size)
        return max(full + (rest > 1), 1)  # BatchNorm cannot train on one picture: skip it this epoch

    def __len__(self) -> int:
        return -(-self.n_steps // self.together)

    def __iter__(self) -> Iterator[Any]:
        if self._next >= self.n_steps:
            self._epoch, self._next = self._epoch + 1, 0
        order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._labels))

        def batch(number: int) -> tuple[Tensor, ...]:
            positions = order[number * self._batch_size : (number + 1) * self._batch_size]
            rng = np.random.default_rng((self._seed, self._epoch, number + 1))
            inputs = self._source.augmented(positions, self._strength, rng)
            return (*inputs, on_device(self._labels[positions], self._source.device))

        batches = prefetch(batch, range(self._next, self.n_steps), self._source.n_prefetch)
        while some := list(islice(batches, self.together)):
            self._next += len(some)
            yield some if self.together > 1 else some[0]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._next = state["epoch"], state["next"]


class EvaluationBatches:
    """Every picture once, in order, without augmentation."""

    def __init__(self, source: BatchSource, labels: tuple[int, ...], batch_size: int = CLEAN_BATCH) -> None:
        self._source = source
        self._labels = np.array(labels, np.int64)
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._labels) // self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        def batch(number: int) -> tuple[Tensor, ...]:
            start = number * self._batch_size
            positions = np.arange(start, min(start + self._batch_size, len(self._labels)))
            return (*self._source.clean(positions), on_device(self._labels[positions], self._source.device))

        return prefetch(batch, range(len(self)), self._source.n_prefetch)
