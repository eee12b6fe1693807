"""Read-ahead: store pixels while pictures are read, at the sizes that the study will most likely use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from autotune.backbones.registry import Registry
from autotune.backbones.weights import find_weights
from autotune.cache.pixels import PixelWriter
from autotune.data.decode import open_image
from autotune.data.folder import LabelledFile
from autotune.data.groups import group_key
from autotune.data.picture import Picture
from autotune.data.split import TEST, VALIDATION, hash_position
from autotune.search.candidates import default_backbones, fixed_names, sizes_for
from autotune.search.settings import Settings

N_HEADERS = 1000  # files whose headers are read first
UNOPENED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # raised on opening a damaged file


class ReadAhead:
    """Stores the pixels of a new study's pictures while they are read, to avoid a second decode; a `PictureSink`.

    The sizes depend on the median side of all pictures, and the test set on all pictures, so both are guessed. A wrong
    guess costs only a second decode: missing pixels are decoded when they are needed, unneeded ones are not read.
    weights: a folder, or None. old: pictures that keep their parts.
    """

    def __init__(self, settings: Settings, registry: Registry, weights: Path | None, old: Sequence[Picture]) -> None:
        self._settings = settings
        self._registry = registry
        self._weights = weights
        self._old = old
        self._is_test: Callable[[Picture], bool] = lambda picture: False
        self._writer = PixelWriter(())

    def begin(self, root: Path, files: Sequence[LabelledFile]) -> None:
        side = likely_side(root, files)
        self._writer = PixelWriter(likely_sizes(self._settings, self._registry, self._weights, side))
        is_given = any(file.part == TEST for file in files)
        self._is_test = likely_test(self._settings.seed, 0.0 if is_given else self._settings.test, self._old)

    def offer(self, picture: Picture, image: Image.Image) -> None:
        if not self._is_test(picture):
            self._writer.add(picture.digest, image)

    def close(self) -> None:
        self._writer.flush()


def likely_side(root: Path, files: Sequence[LabelledFile]) -> int:
    """Return the median shorter side, in pixels, from the headers of a sample; 0 if no file can be opened."""
    sides = []
    for found in files[:: max(len(files) // N_HEADERS, 1)]:
        file = root / found.path
        if not file.is_file():
            continue
        with contextlib.suppress(*UNOPENED), open_image(file) as image:  # errors are reported when the file is read
            sides.append(min(image.size))
    return int(np.median(sides)) if sides else 0


def likely_sizes(settings: Settings, registry: Registry, folder: Path | None, side: int) -> list[tuple[int, str]]:
    """Return the sizes, with interpolations, that will most likely be searched. Builds no backbone."""
    asked = fixed_names(settings.space.backbone)
    named = [registry.find(name) for name in asked] if asked else default_backbones(registry, side)
    backbones = [one for one in named if asked or find_weights(one, folder).installed]
    return sorted(
        {(size, one.traits.interpolation) for one in backbones for size in sizes_for(one, settings.space.pixels, side)}
    )


def likely_test(seed: int, share: float, old: Sequence[Picture] = ()) -> Callable[[Picture], bool]:
    """Return a function that predicts whether the split puts a picture into the test set.

    The split can differ because of near-duplicates, which are not known yet, and of classes with few pictures.
    """
    old_parts = {picture.digest: picture.part for picture in old}

    def is_test(picture: Picture) -> bool:
        part = old_parts.get(picture.digest, picture.part)
        if part in (VALIDATION, TEST) or picture.digest in old_parts:
            return part == TEST
        return hash_position(group_key(picture.group) if picture.group else picture.digest, str(seed)) < share

    return is_test
