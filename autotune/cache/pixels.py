"""The pixel cache: each picture is decoded and resized once, stored as uint8 and shared by all studies."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotune.cache.rows import RowStore
from autotune.data.catalog import Progress
from autotune.data.decode import crop_square
from autotune.data.picture import Picture, UnreadableError, read_picture
from autotune.errors import DataError
from autotune.files import cache_folder

VERSION = 1  # of decoding and resizing; incremented when the resulting pixels change
CHUNK = 256  # pictures between two writes

Square = NDArray[np.uint8]  # (3, P, P)


def pixel_rows(pixels: int, interpolation: str) -> RowStore:
    """Return the store of all pictures at this size: rows (3, P, P), uint8, keyed by digest."""
    folder = cache_folder() / "pixels" / f"{pixels}-{interpolation}-v{VERSION}"
    return RowStore(folder, (3, pixels, pixels), np.uint8)


class PixelWriter:
    """Stores decoded pictures at several sizes, given with their interpolations. Thread-safe."""

    def __init__(self, sizes: Iterable[tuple[int, str]]) -> None:
        self._stores = {(pixels, how): pixel_rows(pixels, how) for pixels, how in sizes}
        self._waiting: dict[str, dict[tuple[int, str], Square]] = {}
        self._lock = threading.Lock()  # guards _waiting; not held while resizing or writing

    def add(self, digest: str, image: Image.Image) -> None:
        """Resize a picture to the sizes that are not stored yet. Raises StudyError if the disk is full."""
        missing = [size for size, rows in self._stores.items() if digest not in rows]
        squares = {(pixels, how): crop_square(image, pixels, how) for pixels, how in missing}
        if not squares:
            return
        with self._lock:
            self._waiting[digest] = squares
            is_full = len(self._waiting) >= CHUNK
        if is_full:
            self.flush()

    def flush(self) -> None:
        """Write the waiting pictures. Raises StudyError if the disk is full."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for size, rows in self._stores.items():
            squares = {digest: found[size] for digest, found in waiting.items() if size in found}
            if not squares:
                continue
            with rows.lock():
                keys = rows.missing(squares)
                if keys:
                    rows.append(keys, np.stack([squares[key] for key in keys]))


def fill_pixels(
    rows: RowStore, root: Path, pictures: Sequence[Picture], interpolation: str, progress: Progress
) -> None:
    """Decode the pictures without a row, in parallel. Raises DataError if a file can no longer be read."""
    by_digest = {picture.digest: picture for picture in pictures}
    with rows.lock(), ThreadPoolExecutor(os.cpu_count()) as pool:
        missing = rows.missing(by_digest)
        for start in range(0, len(missing), CHUNK):
            keys = missing[start : start + CHUNK]
            paths = [root / by_digest[key].path for key in keys]
            squares = list(pool.map(lambda path: read_square(path, rows.shape[-1], interpolation), paths))
            rows.append(keys, np.stack(squares))
            progress(start + len(keys), len(missing))


def read_square(path: Path, pixels: int, interpolation: str) -> Square:
    """Return the largest square in a picture's centre, resized: (3, P, P). Raises DataError."""
    try:
        image = read_picture(path)
    except (UnreadableError, OSError) as error:
        raise DataError(f"{path} can no longer be read: {error}.", "Restore the file, or start a new study.") from error
    return crop_square(image, pixels, interpolation)
