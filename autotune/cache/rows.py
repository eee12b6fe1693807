"""Row files keyed by content: the storage of the pixel and feature caches."""

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
REMAPPED = 2**30  # bytes read before the memory map is reopened, which releases the pages that were read


class RowStore:
    """Arrays of one shape and dtype, each with a key of 32 hex digits, appended to a file and read by a memory map.

    A row exists once its key is on disk. Keys are written after rows: rows left incomplete by kill -9 are never read
    and are overwritten by the next writer. Writers take a lock.
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
            os.utime(self._keys)  # marks the rows as used, for eviction

    def lock(self) -> FileLock:
        """Return the lock to hold while computing and appending rows; it keeps workers from computing the same rows."""
        return FileLock(make_folder(self.folder) / "lock")

    def __contains__(self, key: str) -> bool:
        """Return whether a key had a row when the disk was last read."""
        return key in self._index

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return the keys without a row, in order and without repetition."""
        self._refresh()
        return [key for key in dict.fromkeys(keys) if key not in self._index]

    def append(self, keys: Sequence[str], rows: NDArray[np.generic]) -> None:
        """Append rows (N, *shape) with new keys; the caller holds the lock. Raises StudyError if the disk is full."""
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
        """Return the row numbers (N,) of keys. Raises StudyError if some are missing because the cache was deleted."""
        self._refresh()
        try:
            return np.array([self._index[key] for key in keys], dtype=np.int64)
        except KeyError as error:
            raise StudyError(
                f"Rows of {self.folder} were deleted while in use.",
                "Run the same command again to resume; do not delete the cache while a study is running.",
            ) from error

    def take(self, places: NDArray[np.int64]) -> NDArray[np.generic]:
        """Return rows (N, *shape), copied from the memory map."""
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
        if known and (n < known or self._key(known - 1) != self._last):  # deleted, and possibly rewritten
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
