"""Pixels: each picture decoded and resized once, kept as uint8 and shared by all studies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autotune import standalone
from autotune.errors import DataError
from autotune.images import Picture, Progress, UnreadableError, decode
from autotune.store import Rows, cache_folder

CHUNK = 256


def store(pixels: int, interpolation: str) -> Rows:
    """The rows (3, P, P), uint8, of all pictures at this size, keyed by their digest."""
    return Rows(cache_folder() / "pixels" / f"{pixels}-{interpolation}", (3, pixels, pixels), np.uint8)


def fill(rows: Rows, root: Path, pictures: Sequence[Picture], interpolation: str, progress: Progress) -> None:
    """Decode what is not in the store yet, in parallel. Raises DataError where a file has changed meanwhile."""
    by_digest = {picture.digest: picture for picture in pictures}
    with rows.lock(), ThreadPoolExecutor(os.cpu_count()) as pool:
        missing = rows.missing(by_digest)
        for start in range(0, len(missing), CHUNK):
            keys = missing[start : start + CHUNK]
            paths = [root / by_digest[key].path for key in keys]
            squares = list(pool.map(lambda path: square(path, rows.shape[-1], interpolation), paths))
            rows.append(keys, np.stack(squares))
            progress(start + len(keys), len(missing))


def square(path: Path, pixels: int, interpolation: str) -> NDArray[np.uint8]:
    """One picture as (3, P, P): the largest square in its centre, resized. Raises DataError."""
    try:
        image = decode(path)
    except (UnreadableError, OSError) as error:
        raise DataError(
            f"{path} could be read before and cannot be now: {error}.", "Put it back, or start a new study."
        ) from error
    return standalone.square(image, pixels, interpolation)
