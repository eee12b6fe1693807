"""Rows keyed by content: the files of decoded pixels and cached features."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike, NDArray

from autotune.errors import StudyError
from autotune.files import make_folder, unwritable

KEY_BYTES = 16
REMAPPED = 2**30  # bytes read through a map before it is opened again, so that the pages read do not stay resident


class RowStore:
    """Arrays of one shape and type, each under a 32-hex-digit key, appended and read back through a memory map.

    A row exists once its key is on disk, and keys are written after rows, so what kill -9 leaves unfinished is never
    read: the next writer overwrites it. Writers hold a lock in turn.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.folder = folder
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._rows, self._keys = folder / "rows.bin", folder / "keys.bin"
        self._index: dict[str, int] = {}
        self._last = ""
        self._map: NDArray[np.generic] | None = None
        self._taken = 0
        self._refresh()
        if self._index:
            os.utime(self._keys)  # used now: the least recently used rows are deleted first

    def lock(self) -> FileLock:
        """Held while rows are computed and appended, so that two workers do not compute the same ones."""
        return FileLock(make_folder(self.folder) / "lock")

    def __contains__(self, key: str) -> bool:
        """Whether a key had a row when the disk was last read."""
        return key in self._index

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys, each once and in order, that have no row yet."""
        self._refresh()
        return [key for key in dict.fromkeys(keys) if key not in self._index]

    def append(self, keys: Sequence[str], rows: NDArray[np.generic]) -> None:
        """Add rows (N, *shape) under new keys, with the lock held. Raises StudyError where the disk is full."""
        self._refresh()
        start = len(self._index)
        try:
            make_folder(self.folder)
            with _open(self._rows) as out:
                out.truncate(start * self.row_bytes)
                out.seek(start * self.row_bytes)
                out.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
                out.flush()
                os.fsync(out.fileno())
            with _open(self._keys) as out:
                out.truncate(start * KEY_BYTES)
                out.seek(start * KEY_BYTES)
                out.write(bytes.fromhex("".join(keys)))
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def places(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Row numbers (N,) of keys. Raises StudyError where some are missing: the cache was deleted meanwhile."""
        self._refresh()
        try:
            return np.array([self._index[key] for key in keys], dtype=np.int64)
        except KeyError as error:
            raise StudyError(
                f"{self.folder} has lost rows that it held a while ago.",
                "Do not delete the cache while a study runs; the same command computes them anew and goes on.",
            ) from error

    def take(self, places: NDArray[np.int64]) -> NDArray[np.generic]:
        """Rows (N, *shape), copied out of the map."""
        assert self._map is not None
        rows = np.asarray(self._map[places])
        self._taken += rows.nbytes
        if self._taken > REMAPPED:
            self._taken = 0
            self._map = np.memmap(self._rows, self.dtype, "r", shape=self._map.shape)
        return rows

    def _refresh(self) -> None:
        """Read the keys written since the last call, and map their rows."""
        n = min(_size(self._keys) // KEY_BYTES, _size(self._rows) // max(self.row_bytes, 1))
        known = len(self._index)
        if known and (n < known or self._key(known - 1) != self._last):  # deleted, and perhaps written again
            self._index, self._map, known = {}, None, 0
        if n == known:
            return
        with self._keys.open("rb") as keys:
            keys.seek(known * KEY_BYTES)
            text = keys.read((n - known) * KEY_BYTES).hex()
        width = 2 * KEY_BYTES
        self._index.update({text[i * width : (i + 1) * width]: known + i for i in range(n - known)})
        self._last = text[-width:]
        self._map = np.memmap(self._rows, self.dtype, "r", shape=(n, *self.shape))

    def _key(self, place: int) -> str:
        with self._keys.open("rb") as keys:
            keys.seek(place * KEY_BYTES)
            return keys.read(KEY_BYTES).hex()


def _open(file: Path) -> BinaryIO:
    return cast(BinaryIO, file.open("r+b" if file.exists() else "w+b"))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
