"""Near-duplicates: pictures saved again, resized, slightly cropped, brightened or mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32  # of the compared squares, in pixels
LEAST_SIDE = 30  # of a picture; smaller ones, mainly digits, are too similar (benchmarks/near_duplicates.py)
COARSE = 8  # side of the hash, in cells
PROPOSED, CONFIRMED = 0.9, 0.94  # correlations (benchmarks/near_duplicates.py)
CONTRAST = 2.0  # grey levels of 255; squares below it are blank, and all blank squares are similar
MOST_SHARE = 0.05  # of all pairs; if more are proposed, all pictures show the same scene and none is a duplicate
MOST_EACH = 50  # pairs per picture, for the same reason in large datasets
ROWS = 1024  # compared at a time
ZOOMS = (1.0, 0.98, 0.96)  # sides of a crop, as fractions of the picture's side

Floats = NDArray[np.float32]


def thumbnail(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return the whole RGB picture as (SIDE, SIDE, 3), or None if it is too small or too uniform to be compared."""
    if min(image.size) < LEAST_SIDE:
        return None
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return small if small.std() >= CONTRAST else None


def find_near_duplicates(thumbs: Sequence[NDArray[np.uint8]]) -> list[tuple[int, int]] | None:
    """Return pairs of positions i < j of near-duplicate thumbs; None if the thumbs are too similar to distinguish.

    A coarse grey hash proposes pairs (as in Zauner 2010, with values instead of signs); the colour pixels of the best
    of a few crops confirm them. Both compute correlations, which do not depend on brightness and contrast.
    """
    if len(thumbs) < 2:
        return []
    proposed = _proposed(np.stack(thumbs))
    if proposed is None:
        return None
    return [(i, j) for i, j in proposed if _are_duplicates(thumbs[i], thumbs[j])]


def _proposed(thumbs: NDArray[np.uint8]) -> list[tuple[int, int]] | None:
    hashes, mirrored = _hashes(thumbs), _hashes(thumbs[:, :, ::-1])
    n = len(hashes)
    most = max(min(MOST_SHARE * n * (n - 1) / 2, MOST_EACH * n), n)
    found: list[tuple[int, int]] = []
    for first in range(0, n, ROWS):
        rows = slice(first, first + ROWS)
        rest = hashes[first:]
        alike = np.maximum(hashes[rows] @ rest.T, mirrored[rows] @ rest.T) >= PROPOSED  # (ROWS, n - first)
        found.extend((int(i) + first, int(j) + first) for i, j in np.argwhere(np.triu(alike, 1)))
        if len(found) > most:
            return None
    return found


def _hashes(thumbs: NDArray[np.uint8]) -> Floats:
    """Return the grey means of an 8 x 8 grid, centred and of length 1: (N, 64)."""
    step = SIDE // COARSE
    grid = thumbs.reshape(len(thumbs), COARSE, step, COARSE, step, 3).mean((2, 4, 5), dtype=np.float32)
    return _centred(grid)


def _are_duplicates(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    flipped = np.ascontiguousarray(one[:, ::-1])
    return any(_has_crop(a, b) for a, b in ((one, other), (other, one), (flipped, other), (other, flipped)))


def _has_crop(whole: NDArray[np.uint8], part: NDArray[np.uint8]) -> bool:
    """Return whether a crop of one thumb matches the other thumb."""
    wanted = _centred(part[None])[0]
    image = Image.fromarray(whole)
    return any(float(_centred(_cut(image, zoom, x, y)[None])[0] @ wanted) >= CONFIRMED for zoom, x, y in _crops())


def _crops() -> list[tuple[float, float, float]]:
    """Return (zoom, x, y) of each crop. x, y: offset as a fraction of the space left: both edges and the middle."""
    return [(zoom, x, y) for zoom in ZOOMS for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if zoom < 1 or x == y == 0]


def _cut(image: Image.Image, zoom: float, x: float, y: float) -> NDArray[np.uint8]:
    side, room = SIDE * zoom, SIDE * (1 - zoom)
    box = (room * x, room * y, room * x + side, room * y + side)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def _centred(values: NDArray[np.generic]) -> Floats:
    """Return rows (N, D), centred and of length 1; the product of two rows is their correlation."""
    rows = values.reshape(len(values), -1).astype(np.float32)
    rows = rows - rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-6), dtype=np.float32)
