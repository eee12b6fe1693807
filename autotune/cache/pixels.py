"""Pixels: each picture decoded and resized once, kept as uint8 and shared by all studies."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
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

CHUNK = 256


def pixel_rows(pixels: int, interpolation: str) -> RowStore:
    """The rows (3, P, P), uint8, of all pictures at this size, keyed by their digest."""
    return RowStore(cache_folder() / "pixels" / f"{pixels}-{interpolation}", (3, pixels, pixels), np.uint8)


class PixelWriter:
    """A shelf for reading: each picture's squares at several (size, interpolation), stored as they come in.

    is_sealed: whether a picture is the test's; of those nothing is kept.
    """

    def __init__(self, looks: Sequence[tuple[int, str]], is_sealed: Callable[[Picture], bool]) -> None:
        self._stores = {(size, how): pixel_rows(size, how) for size, how in looks}
        self._is_sealed = is_sealed
        self._waiting: dict[str, dict[tuple[int, str], NDArray[np.uint8]]] = {}

    def cut(self, picture: Picture, image: Image.Image) -> dict[tuple[int, str], NDArray[np.uint8]] | None:
        """The squares (3, P, P) that are not in the store yet."""
        if self._is_sealed(picture):
            return None
        wanted = (look for look, rows in self._stores.items() if picture.digest not in rows)
        return {(size, how): crop_square(image, size, how) for size, how in wanted}

    def put(self, digest: str, cut: dict[tuple[int, str], NDArray[np.uint8]]) -> None:
        self._waiting[digest] = cut
        if len(self._waiting) >= CHUNK:
            self.close()

    def close(self) -> None:
        """Write what waits. Raises StudyError where the disk is full."""
        for look, rows in self._stores.items():
            squares = {digest: cut[look] for digest, cut in self._waiting.items() if look in cut}
            if not squares:
                continue
            with rows.lock():
                keys = rows.missing(squares)
                if keys:
                    rows.append(keys, np.stack([squares[key] for key in keys]))
        self._waiting = {}


def fill_pixels(
    rows: RowStore, root: Path, pictures: Sequence[Picture], interpolation: str, progress: Progress
) -> None:
    """Decode what reading has not put there, in parallel. Raises DataError where a file has changed meanwhile."""
    by_digest = {picture.digest: picture for picture in pictures}
    with rows.lock(), ThreadPoolExecutor(os.cpu_count()) as pool:
        missing = rows.missing(by_digest)
        for start in range(0, len(missing), CHUNK):
            keys = missing[start : start + CHUNK]
            paths = [root / by_digest[key].path for key in keys]
            squares = list(pool.map(lambda path: read_square(path, rows.shape[-1], interpolation), paths))
            rows.append(keys, np.stack(squares))
            progress(start + len(keys), len(missing))


def read_square(path: Path, pixels: int, interpolation: str) -> NDArray[np.uint8]:
    """One picture as (3, P, P): the largest square in its centre, resized. Raises DataError."""
    try:
        image = read_picture(path)
    except (UnreadableError, OSError) as error:
        raise DataError(
            f"{path} could be read before and cannot be now: {error}.", "Put it back, or start a new study."
        ) from error
    return crop_square(image, pixels, interpolation)
