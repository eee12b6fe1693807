"""Row files keyed by content: the storage of the pixel and feature caches."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Self, cast

import numpy as np
from filelock import FileLock
from numpy.typing import DTypeLike, NDArray

from autotune.errors import StudyError
from autotune.files import make_folder, unwritable
from autotune.text import plural

KEY_BYTES, SUM_BYTES = 16, 4
REMAPPED = 2**30  # bytes read before the memory map is reopened, which releases the pages that were read

logger = logging.getLogger(__name__)


class RowStore:
    """Arrays of one shape and dtype, each with a key of 32 hex digits, appended to a file and read by a memory map.

    A row exists once its key is on disk. Keys are written after rows and their checksums: rows left incomplete by
    kill -9 are never read and are overwritten by the next writer. Writers take a lock. A row that does not match its
    checksum (CRC-32) is missing; a row appended later with the same key replaces it.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.folder = folder
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape)) * self.dtype.itemsize
        self._rows, self._keys, self._sums = folder / "rows.bin", folder / "keys.bin", folder / "sums.bin"
        self._index: dict[str, int] = {}
        self._n = 0
        self._checked: set[int] = set()  # places of rows that this process has written, or compared with their checksum
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
        """Return the keys without an undamaged row, in order and without repetition."""
        self._refresh()
        keys = list(dict.fromkeys(keys))
        self._drop_damaged([key for key in keys if key in self._index])
        return [key for key in keys if key not in self._index]

    def append(self, keys: Sequence[str], rows: NDArray[np.generic]) -> None:
        """Append rows (N, *shape) of missing keys; the caller holds the lock. Raises StudyError if the disk is full."""
        self._refresh()
        rows = np.ascontiguousarray(rows, dtype=self.dtype)
        sums = np.array([zlib.crc32(row) for row in rows], np.uint32)
        try:
            make_folder(self.folder)
            self._write(self._rows, self.row_bytes, rows.data, durable=True)
            self._write(self._sums, SUM_BYTES, sums.tobytes(), durable=True)
            self._write(self._keys, KEY_BYTES, bytes.fromhex("".join(keys)))
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self._checked.update(range(self._n, self._n + len(rows)))

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
        sizes = (self._keys, KEY_BYTES), (self._rows, self.row_bytes), (self._sums, SUM_BYTES)
        n = min(_size(file) // max(each, 1) for file, each in sizes)
        known = self._n
        if known and (n < known or self._key(known - 1) != self._last):  # deleted, and possibly rewritten
            self._index, self._map, self._checked, known = {}, None, set(), 0
        self._n = n
        if n == known:
            return
        with self._keys.open("rb") as keys:
            keys.seek(known * KEY_BYTES)
            text = keys.read((n - known) * KEY_BYTES).hex()
        width = 2 * KEY_BYTES
        self._index.update({text[i * width : (i + 1) * width]: known + i for i in range(n - known)})
        self._last = text[-width:]
        self._map = np.memmap(self._rows, self.dtype, "r", shape=(n, *self.shape))

    def _drop_damaged(self, keys: Sequence[str]) -> None:
        """Remove rows that do not match their checksums from the index. Each is compared once per process."""
        new = [key for key in keys if self._index[key] not in self._checked]
        if not new:
            return
        assert self._map is not None
        sums = np.fromfile(self._sums, np.uint32, self._n)
        damaged = [key for key in new if zlib.crc32(self._map[self._index[key]]) != sums[self._index[key]]]
        self._checked.update(self._index[key] for key in new)
        for key in damaged:
            del self._index[key]
        if damaged:
            some = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
            logger.warning("%s in %s computed again: %s", plural(len(damaged), "damaged row"), self.folder, some)

    def _write(self, file: Path, each: int, content: bytes | memoryview, durable: bool = False) -> None:
        """Write entries of `each` bytes after those of the rows that exist. durable: they are then on disk."""
        with cast(BinaryIO, file.open("r+b" if file.exists() else "w+b")) as out:
            out.truncate(self._n * each)
            out.seek(self._n * each)
            out.write(content)
            if durable:
                out.flush()
                os.fsync(out.fileno())

    def _key(self, place: int) -> str:
        with self._keys.open("rb") as keys:
            keys.seek(place * KEY_BYTES)
            return keys.read(KEY_BYTES).hex()


class Writer:
    """Appends rows in a thread while the next ones are computed. Use it as a context manager.

    What has been appended since the last `finish` is in memory until it is on disk.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._running: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()  # waits

    def append(self, rows: RowStore, keys: Sequence[str], values: NDArray[np.generic]) -> None:
        """Append rows as `RowStore.append` does, but later."""
        self._running.append(self._pool.submit(rows.append, keys, values))

    def finish(self) -> None:
        """Wait until all rows are on disk. Raises what `RowStore.append` has raised."""
        while self._running:
            self._running.pop(0).result()


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
