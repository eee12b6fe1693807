"""Rows for training: kept on the device if they fit, else read from disk batch by batch."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.cache.rows import RowStore

CHUNK = 1024  # rows copied to the device at a time


class ResidentRows:
    """The rows of a fixed list of pictures, addressed by position in the list."""

    def __init__(self, rows: RowStore, digests: tuple[str, ...], device: torch.device, resident: bool) -> None:
        self.shape = rows.shape
        self.device = device if resident else torch.device("cpu")
        self._rows = rows
        self._places = rows.places(digests)
        self._resident = self._copied() if resident else None

    @property
    def is_resident(self) -> bool:
        """Whether all rows are in the device's memory."""
        return self._resident is not None

    def take(self, positions: NDArray[np.int64]) -> Tensor:
        """Return rows (N, ...) on `device`, in the store's dtype."""
        if self._resident is None:
            return torch.from_numpy(self._rows.take(self._places[positions]))
        return self._resident[torch.from_numpy(positions).to(self.device)]

    def _copied(self) -> Tensor:
        kind = torch.from_numpy(np.empty(0, self._rows.dtype)).dtype
        copy = torch.empty((len(self._places), *self.shape), dtype=kind, device=self.device)
        for first in range(0, len(self._places), CHUNK):
            copy[first : first + CHUNK] = torch.from_numpy(self._rows.take(self._places[first : first + CHUNK]))
        return copy


class ResidentPool:
    """A fixed amount of device memory for rows, kept across trials; the least recently used rows are evicted."""

    def __init__(self, device: torch.device, n_bytes: int) -> None:
        self._device = device
        self._n_bytes = n_bytes
        self._kept: OrderedDict[tuple[object, ...], tuple[ResidentRows, int]] = OrderedDict()

    def held(self, rows: RowStore, digests: tuple[str, ...]) -> ResidentRows:
        """Return the rows of these pictures, resident if all of them fit."""
        key = (rows.folder, digests)
        if key not in self._kept:
            needed = rows.row_bytes * len(digests)
            if needed > self._n_bytes:
                return ResidentRows(rows, digests, self._device, resident=False)
            while self._kept and needed + sum(taken for _, taken in self._kept.values()) > self._n_bytes:
                self._kept.popitem(last=False)
            self._kept[key] = ResidentRows(rows, digests, self._device, resident=True), needed
        self._kept.move_to_end(key)
        return self._kept[key][0]
