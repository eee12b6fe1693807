"""Pictures: a folder or a table of them becomes a catalogue of labelled, readable pictures."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotune.data.folder import LabelledFile, SkippedFile, list_folder
from autotune.data.near_duplicates import find_near_duplicates, thumbnail
from autotune.data.picture import Picture, UnreadableError, pixel_digest, read_picture
from autotune.data.table import is_table, list_table
from autotune.errors import DataError

with contextlib.suppress(ImportError):  # the extra `heic`
    import pillow_heif

    pillow_heif.register_heif_opener()

BAD_SHARE = 0.1

READ_AT_ONCE = 512  # files between two waits, so that what is kept of them stays bounded
UNOPENED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what opening a damaged file raises
GLANCED = 1000  # files whose headers are looked at beforehand

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Catalog:
    """Pictures and what was set aside. near: digests of near-copies, pair by pair; None where the pictures are too
    much alike to tell.
    """

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    set_aside: tuple[SkippedFile, ...]
    near: tuple[tuple[str, str], ...] | None = ()

    @property
    def counts(self) -> dict[str, int]:
        """Pictures a class, in the order of classes."""
        found = Counter(picture.label for picture in self.pictures)
        return {name: found[name] for name in self.classes}

    @property
    def copies(self) -> list[list[Picture]]:
        """Groups of two and more pictures with the same pixels."""
        groups: dict[str, list[Picture]] = defaultdict(list)
        for picture in self.pictures:
            groups[picture.digest].append(picture)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def side(self) -> int:
        """The median shorter side, in pixels."""
        return int(np.median([picture.side for picture in self.pictures]))


class PixelSink(Protocol):
    """Keeps of each picture what is wanted later, while it is decoded anyway."""

    def cut(self, picture: Picture, image: Image.Image) -> Any:
        """What to keep of a picture, None for nothing. Called from several threads."""

    def put(self, digest: str, cut: Any) -> None:
        """Keep it. Called from one thread."""

    def close(self) -> None:
        """No more will come."""


def read_catalog(source: Path, known: Mapping[str, Picture] | None = None, progress: Progress | None = None,
         shelf_for: Callable[[int], PixelSink] | None = None) -> Catalog:  # fmt: skip
    """Find, decode and hash every picture of a folder or table, in parallel. known: pictures of an earlier run, by
    path; with them, near-copies are not looked for.

    shelf_for: makes a shelf for pictures of about this median shorter side, in pixels, as their headers say.
    Raises DataError: no such folder, no pictures, one class, too many that cannot be read.
    """
    root, files, set_aside = _found(source)
    pictures: list[Picture] = []
    thumbs: dict[str, NDArray[np.uint8]] = {}
    shelf = shelf_for(_glanced_side(root, files)) if shelf_for else None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(files), READ_AT_ONCE):
            chunk = files[first : first + READ_AT_ONCE]
            jobs = pool.map(lambda found: _examined(root, found, known or {}, shelf), chunk)
            for done, look in enumerate(jobs, first + 1):
                if isinstance(look.result, Picture):
                    pictures.append(look.result)
                    if look.thumb is not None:
                        thumbs[look.result.digest] = look.thumb
                    if shelf and look.cut is not None:
                        shelf.put(look.result.digest, look.cut)
                else:
                    set_aside.append(look.result)
                if progress:
                    progress(done, len(files))
    if shelf:
        shelf.close()
    _refuse_empty(source, pictures, set_aside)
    classes = tuple(sorted({picture.label for picture in pictures}))
    if len(classes) < 2:
        raise DataError(
            f"{source} holds one class, {classes[0]!r}.", "Give each class a folder of its own; two at least."
        )
    aside = tuple(sorted(set_aside, key=lambda one: one.path))
    return Catalog(root, classes, tuple(pictures), aside, () if known else _near(thumbs))


def _found(source: Path) -> tuple[Path, list[LabelledFile], list[SkippedFile]]:
    """The root that paths start at, the files, and what cannot be one of them."""
    if is_table(source):
        return source.parent, *list_table(source)
    if not source.is_dir():
        raise DataError(f"There is no folder {source}.", "Name a folder that holds one folder of pictures a class.")
    return source, *list_folder(source)


def _near(thumbs: Mapping[str, NDArray[np.uint8]]) -> tuple[tuple[str, str], ...] | None:
    digests = list(thumbs)
    pairs = find_near_duplicates(list(thumbs.values()))
    return None if pairs is None else tuple((digests[i], digests[j]) for i, j in pairs)


def refuse_many_unreadable(catalog: Catalog) -> None:
    """Raise DataError where over a tenth of the pictures cannot be read: more likely a fault than a few bad files."""
    bad = [one for one in catalog.set_aside if one.bad]
    if len(bad) > BAD_SHARE * (len(bad) + len(catalog.pictures)):
        shown = "; ".join(f"{one.path}: {one.reason}" for one in bad[:3])
        raise DataError(
            f"{len(bad)} of {len(bad) + len(catalog.pictures)} pictures cannot be read ({shown}, ...).",
            "`autotune data` lists them all. Mend or delete them, or leave them out: --skip-unreadable",
        )


def _glanced_side(root: Path, files: Sequence[LabelledFile]) -> int:
    """The median shorter side of some files, evenly spread, by their headers; 0 where none can be opened."""
    sides = []
    for found in files[:: max(len(files) // GLANCED, 1)]:
        file = root / found.path
        if not file.is_file():
            continue
        with contextlib.suppress(*UNOPENED), Image.open(file) as image:  # what is wrong with it is said later
            sides.append(min(image.size))
    return int(np.median(sides)) if sides else 0


@dataclass(frozen=True)
class _Look:
    """One file as a picture, its thumb, and what the shelf wants of it."""

    result: Picture | SkippedFile
    thumb: NDArray[np.uint8] | None = None
    cut: Any = None


def _examined(root: Path, found: LabelledFile, known: Mapping[str, Picture], shelf: PixelSink | None) -> _Look:
    path = root / found.path
    try:
        status = path.stat()
        stamp = f"{status.st_size}-{status.st_mtime_ns}"
        before = known.get(found.path)
        if before and before.stamp == stamp:
            same = Picture(found.path, found.label, found.part, before.digest, before.side, stamp, found.group)
            return _Look(same)
        image = read_picture(path)
    except OSError as error:
        return _Look(SkippedFile(found.path, f"cannot be opened: {error.strerror}", bad=True))
    except UnreadableError as error:
        return _Look(SkippedFile(found.path, str(error), bad=True))
    picture = Picture(found.path, found.label, found.part, pixel_digest(image), min(image.size), stamp, found.group)
    return _Look(picture, thumbnail(image), shelf and shelf.cut(picture, image))


def _refuse_empty(source: Path, pictures: list[Picture], set_aside: list[SkippedFile]) -> None:
    if pictures:
        return
    if set_aside:
        first = set_aside[0]
        raise DataError(
            f"{source} has no picture that can be used; {len(set_aside)} files were set aside, "
            f"the first, {first.path}: {first.reason}.",
            "Put the pictures of each class into a folder of its own below it.",
        )
    raise DataError(f"{source} is empty.", "Put the pictures of each class into a folder of its own below it.")
