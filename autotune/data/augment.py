"""Augmentation: one random view per picture, computed for a whole batch with a single geometric resampling.

Increment `VERSION` in cache/features.py if the views change but none of the constants here does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

N_DRAWS = 16


@dataclass(frozen=True)
class AugmentRanges:
    """The range of each operation at magnitude 1, as in Keras's ImageDataGenerator. shift: fraction of the side.

    All fields are part of the keys of cached views: rows computed with other ranges are not reused.
    """

    shift: float = 0.2
    shear: float = 0.3
    zoom: float = 0.1
    channel_shift: float = 0.2


RANGES = AugmentRanges()  # from the hot-dog write-up


@dataclass(frozen=True)
class Invariances:
    """The transformations that do not change a picture's class. angle: largest rotation, in degrees."""

    flips: str = "horizontal"
    angle: float = 15.0


def augmentation_key() -> str:
    """Return the constants that a view depends on, apart from its picture and its study."""
    return f"{RANGES} {N_DRAWS}"


def random_draws(digests: Sequence[str], views: Sequence[int], seed: int) -> Tensor:
    """Return random numbers (N, 16) in [0, 1) that depend only on (seed, content, view number)."""
    raw = b"".join(
        hashlib.blake2b(f"{seed}:{digest}:{view}".encode(), digest_size=4 * N_DRAWS).digest()
        for digest, view in zip(digests, views, strict=True)
    )
    whole = torch.frombuffer(bytearray(raw), dtype=torch.int32).view(-1, N_DRAWS)
    return whole.double().div(2**32).add(0.5).float().clamp(0, 1 - 2**-24)


def augment(pixels: Tensor, magnitude: Tensor, drawn: Tensor, invariances: Invariances) -> Tensor:
    """Return views (N, 3, P, P), float in [0, 1], of pictures (N, 3, P, P), uint8.

    magnitude: (N,) in [0, 1]; 0 returns the picture unchanged. drawn: (N, 16) from `random_draws`. Pixels beyond the
    edge are filled by reflection.
    """
    image = pixels.float().div(255)
    magnitude = magnitude.to(image)
    moved = functional.grid_sample(
        image,
        functional.affine_grid(
            _affine(magnitude, drawn.to(image), invariances), list(image.shape), align_corners=False
        ),
        padding_mode="reflection",
        align_corners=False,
    )
    tint = RANGES.channel_shift * magnitude[:, None] * _signed(drawn[:, 5:8].to(image))  # (N, 3)
    view = moved.add(tint[:, :, None, None]).clamp(0, 1)
    return torch.where(magnitude[:, None, None, None] > 0, view, image)


def _affine(magnitude: Tensor, drawn: Tensor, invariances: Invariances) -> Tensor:
    """Return affine matrices (N, 2, 3): rotation, shear, zoom, flip and shift, in grid_sample's [-1, 1] coordinates."""
    angle = math.radians(invariances.angle) * magnitude * _signed(drawn[:, 0])
    shear = RANGES.shear * magnitude * _signed(drawn[:, 1])
    zoom = 1 + RANGES.zoom * magnitude * _signed(drawn[:, 2])
    across = _mirror(drawn[:, 8], invariances.flips in ("horizontal", "both"))
    down = _mirror(drawn[:, 9], invariances.flips in ("vertical", "both"))
    cos, sin = angle.cos(), angle.sin()
    shift = 2 * RANGES.shift * magnitude[:, None] * _signed(drawn[:, 3:5])  # the whole width is 2 units
    top = torch.stack([cos * zoom * across, (shear * cos - sin) * zoom * down, shift[:, 0]], 1)
    bottom = torch.stack([sin * zoom * across, (shear * sin + cos) * zoom * down, shift[:, 1]], 1)
    return torch.stack([top, bottom], 1)


def _signed(drawn: Tensor) -> Tensor:
    return drawn * 2 - 1


def _mirror(drawn: Tensor, allowed: bool) -> Tensor:
    return torch.where((drawn < 0.5) & allowed, -1.0, 1.0)
