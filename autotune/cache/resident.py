"""Rows for training: kept on the device if they fit, else read from disk batch by batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

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
        return self._resident.index_select(0, on_device(positions, self.device))

    def _copied(self) -> Tensor:
        kind = torch.from_numpy(np.empty(0, self._rows.dtype)).dtype
        copy = torch.empty((len(self._places), *self.shape), dtype=kind, device=self.device)
        for first in range(0, len(self._places), CHUNK):
            copy[first : first + CHUNK] = on_device(self._rows.take(self._places[first : first + CHUNK]), self.device)
        return copy


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device. A copy to a GPU from memory that is not pinned would wait for all its work."""
    here = torch.from_numpy(array)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


class ResidentPool:
    """A fixed amount of device memory for rows, kept across trials; the least recently used rows are evicted."""

    def __init__(self, device: torch.device, n_bytes: int) -> None:
        self._device = device
        self._n_bytes = n_bytes
        self._kept: OrderedDict[tuple[object, ...], tuple[ResidentRows, int]] = OrderedDict()

    def held(self, wanted: Sequence[tuple[RowStore, tuple[str, ...]]]) -> list[ResidentRows]:
        """Return the rows of some pictures for each store, all that a trial reads: resident if they fit together.

        If they took turns in the memory, each epoch would copy all of them.
        """
        needed = {(rows.folder, digests): rows.row_bytes * len(digests) for rows, digests in wanted}
        if sum(needed.values()) > self._n_bytes:
            return [ResidentRows(rows, digests, self._device, resident=False) for rows, digests in wanted]
        others = [key for key in self._kept if key not in needed]
        while others and sum(needed.values()) + sum(self._kept[key][1] for key in others) > self._n_bytes:
            del self._kept[others.pop(0)]
        return [self._copied(rows, digests) for rows, digests in wanted]

    def _copied(self, rows: RowStore, digests: tuple[str, ...]) -> ResidentRows:
        key = (rows.folder, digests)
        if key not in self._kept:
            resident = ResidentRows(rows, digests, self._device, resident=True)
            self._kept[key] = resident, rows.row_bytes * len(digests)
        self._kept.move_to_end(key)
        return self._kept[key][0]
