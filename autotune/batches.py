"""Batches: what a training step is fed, from a bank or afresh from pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.augment import draws
from autotune.bank import N_VIEWS, Bank
from autotune.store import Rows

CLEAN_BATCH = 128


@dataclass(frozen=True)
class Labelled:
    """Pictures as workers know them: by digest and class number, without a path."""

    digests: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)


class Source(Protocol):
    """Where a batch's inputs come from, for positions in a fixed list of pictures."""

    def clean(self, positions: NDArray[np.int64]) -> tuple[Tensor, ...]: ...

    def augmented(
        self, positions: NDArray[np.int64], strength: float, rng: np.random.Generator
    ) -> tuple[Tensor, ...]: ...


class Banked:
    """Rows of a bank at one cut. Strength s draws evenly from the clean view and the views of magnitude up to s."""

    def __init__(self, bank: Bank, cut: int, digests: tuple[str, ...], strength: float) -> None:
        self._views = [bank.rows(cut, view) for view in views_up_to(strength)]
        self._places = [rows.places(digests) for rows in self._views]

    def clean(self, positions: NDArray[np.int64]) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self._views[0].take(self._places[0][positions])),)

    def augmented(self, positions: NDArray[np.int64], strength: float, rng: np.random.Generator) -> tuple[Tensor, ...]:
        drawn = rng.integers(0, len(views_up_to(strength)), len(positions))
        out = np.empty((len(positions), *self._views[0].shape), np.float16)
        for view in np.unique(drawn):
            mine = drawn == view
            out[mine] = self._views[view].take(self._places[view][positions[mine]])
        return (torch.from_numpy(out),)


class Fresh:
    """Decoded pixels, augmented anew each time: for nets from scratch, and where a bank would be too large."""

    def __init__(self, pixels: Rows, digests: tuple[str, ...], seed: int) -> None:
        self._pixels = pixels
        self._digests = digests
        self._places = pixels.places(digests)
        self._seed = seed

    def clean(self, positions: NDArray[np.int64]) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self._pixels.take(self._places[positions])),)

    def augmented(self, positions: NDArray[np.int64], strength: float, rng: np.random.Generator) -> tuple[Tensor, ...]:
        magnitude = torch.from_numpy(rng.random(len(positions), np.float32) * np.float32(strength))
        views = rng.integers(0, 2**31, len(positions)).tolist()
        drawn = draws([self._digests[i] for i in positions], views, self._seed)
        return (*self.clean(positions), magnitude, drawn)


def views_up_to(strength: float) -> range:
    """The bank's views that a strength draws from: 0 is clean, view v has magnitude v / N_VIEWS."""
    return range(int(strength * N_VIEWS + 1e-9) + 1)


class TrainBatches:
    """An epoch of shuffled, augmented batches, each time it is iterated. Order and views depend on (seed, epoch) alone.

    It tells Lightning where it stands, so that a checkpoint taken in the middle of an epoch goes on from there.
    """

    def __init__(self, source: Source, labels: tuple[int, ...], batch_size: int, strength: float, seed: int) -> None:
        self._source = source
        self._labels = torch.tensor(labels)
        self._batch_size = batch_size
        self._strength = strength
        self._seed = seed
        self._epoch = 0
        self._next = 0

    def __len__(self) -> int:
        full, rest = divmod(len(self._labels), self._batch_size)
        return max(full + (rest > 1), 1)  # BatchNorm cannot learn from a single picture: it waits for the next epoch

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self._next >= len(self):
            self._epoch, self._next = self._epoch + 1, 0
        order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._labels))
        while self._next < len(self):
            positions = order[self._next * self._batch_size : (self._next + 1) * self._batch_size]
            rng = np.random.default_rng((self._seed, self._epoch, self._next + 1))
            self._next += 1
            yield (*self._source.augmented(positions, self._strength, rng), self._labels[positions])

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._next = state["epoch"], state["next"]


class CleanBatches:
    """Every picture once, unaugmented and in order: for measuring."""

    def __init__(self, source: Source, labels: tuple[int, ...]) -> None:
        self._source = source
        self._labels = torch.tensor(labels)

    def __len__(self) -> int:
        return -(-len(self._labels) // CLEAN_BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for start in range(0, len(self._labels), CLEAN_BATCH):
            positions = np.arange(start, min(start + CLEAN_BATCH, len(self._labels)))
            yield (*self._source.clean(positions), self._labels[positions])
