"""Near-copies: pictures saved again, resized, slightly cropped, brightened or mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32  # of the squares that are compared
LEAST_SIDE = 30  # of a picture; smaller ones look too much alike, digits above all (benchmarks/near_duplicates.py)
COARSE = 8  # side of the hash
PROPOSED, CONFIRMED = 0.9, 0.94  # correlations (benchmarks/near_duplicates.py)
CONTRAST = 2.0  # grey levels of 255; below it a square is blank, and all blank ones are alike
MOST_SHARE = 0.05  # of all pairs; where more are proposed, every picture shows the same scene, and none is a copy
MOST_EACH = 50  # pairs a picture, for the same reason in a large set
ROWS = 1024  # compared at once
ZOOMS = (1.0, 0.98, 0.96)  # of what one picture shows of the other

Floats = NDArray[np.float32]


def thumbnail(image: Image.Image) -> NDArray[np.uint8] | None:
    """The whole RGB picture as (SIDE, SIDE, 3), or None where it is too small or too plain to tell from others."""
    if min(image.size) < LEAST_SIDE:
        return None
    small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
    return small if small.std() >= CONTRAST else None


def find_near_duplicates(thumbs: Sequence[NDArray[np.uint8]]) -> list[tuple[int, int]] | None:
    """Pairs of places i < j whose thumbs are near-copies; None where all are too much alike to tell.

    A coarse grey hash proposes (as in Zauner 2010, with its values kept instead of their signs); pixels in colour
    confirm, after the better of a few crops. Both are correlations, so brightness and contrast do not count.
    """
    if len(thumbs) < 2:
        return []
    proposed = _proposed(np.stack(thumbs))
    if proposed is None:
        return None
    return [(i, j) for i, j in proposed if _are_copies(thumbs[i], thumbs[j])]


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
    """Grey means of an 8 x 8 grid, (N, 64), of length 1 about their mean."""
    step = SIDE // COARSE
    grid = thumbs.reshape(len(thumbs), COARSE, step, COARSE, step, 3).mean((2, 4, 5), dtype=np.float32)
    return _centred(grid)


def _are_copies(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    flipped = np.ascontiguousarray(one[:, ::-1])
    return any(_shows(a, b) for a, b in ((one, other), (other, one), (flipped, other), (other, flipped)))


def _shows(whole: NDArray[np.uint8], part: NDArray[np.uint8]) -> bool:
    """Whether some crop of a thumb is another thumb."""
    wanted = _centred(part[None])[0]
    image = Image.fromarray(whole)
    return any(float(_centred(_cut(image, zoom, x, y)[None])[0] @ wanted) >= CONFIRMED for zoom, x, y in _crops())


def _crops() -> list[tuple[float, float, float]]:
    """Zooms, and where in the room that each leaves the crop begins: at the edges and in the middle."""
    return [(zoom, x, y) for zoom in ZOOMS for x in (0.0, 0.5, 1.0) for y in (0.0, 0.5, 1.0) if zoom < 1 or x == y == 0]


def _cut(image: Image.Image, zoom: float, x: float, y: float) -> NDArray[np.uint8]:
    side, room = SIDE * zoom, SIDE * (1 - zoom)
    box = (room * x, room * y, room * x + side, room * y + side)
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def _centred(values: NDArray[np.generic]) -> Floats:
    """Rows (N, D) of length 1, their mean taken out, so that a product is a correlation."""
    rows = values.reshape(len(values), -1).astype(np.float32)
    rows = rows - rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-6), dtype=np.float32)
