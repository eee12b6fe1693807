"""Pictures: a folder or a table of them becomes a catalogue of labelled, readable pictures."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from autotune import folder, near, standalone, table
from autotune.errors import DataError
from autotune.folder import Found, SetAside

with contextlib.suppress(ImportError):  # the extra `heic`
    import pillow_heif

    pillow_heif.register_heif_opener()

BAD_SHARE = 0.1
MOST_PIXELS = 200_000_000

READ_AT_ONCE = 512  # files between two waits, so that what is kept of them stays bounded
UNOPENED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what opening a damaged file raises
GLANCED = 1000  # files whose headers are looked at beforehand

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Picture:
    """One readable picture. path: relative to the catalogue's root, or absolute. part, group: as its source says.

    digest: 32 hex digits of its upright RGB pixels, so that equal digests are copies. stamp: size and time of its
    file, by which a later run knows it again without decoding. group: what must not stand on two sides; "" for none.
    """

    path: str
    label: str
    part: str | None
    digest: str
    side: int
    stamp: str
    group: str = ""


@dataclass(frozen=True)
class Catalog:
    """Pictures and what was set aside. near: digests of near-copies, pair by pair; None where the pictures are too
    much alike to tell.
    """

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    set_aside: tuple[SetAside, ...]
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


class UnreadableError(Exception):
    """Why one file is set aside; the rest go on."""


class Shelf(Protocol):
    """Keeps of each picture what is wanted later, while it is decoded anyway."""

    def cut(self, picture: Picture, image: Image.Image) -> Any:
        """What to keep of a picture, None for nothing. Called from several threads."""

    def put(self, digest: str, cut: Any) -> None:
        """Keep it. Called from one thread."""

    def close(self) -> None:
        """No more will come."""


def read(source: Path, known: Mapping[str, Picture] | None = None, progress: Progress | None = None,
         shelf_for: Callable[[int], Shelf] | None = None) -> Catalog:  # fmt: skip
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


def _found(source: Path) -> tuple[Path, list[Found], list[SetAside]]:
    """The root that paths start at, the files, and what cannot be one of them."""
    if table.is_table(source):
        return source.parent, *table.listed(source)
    if not source.is_dir():
        raise DataError(f"There is no folder {source}.", "Name a folder that holds one folder of pictures a class.")
    return source, *folder.listed(source)


def _near(thumbs: Mapping[str, NDArray[np.uint8]]) -> tuple[tuple[str, str], ...] | None:
    digests = list(thumbs)
    pairs = near.pairs(list(thumbs.values()))
    return None if pairs is None else tuple((digests[i], digests[j]) for i, j in pairs)


def refuse_many_bad(catalog: Catalog) -> None:
    """Raise DataError where over a tenth of the pictures cannot be read: more likely a fault than a few bad files."""
    bad = [one for one in catalog.set_aside if one.bad]
    if len(bad) > BAD_SHARE * (len(bad) + len(catalog.pictures)):
        shown = "; ".join(f"{one.path}: {one.reason}" for one in bad[:3])
        raise DataError(
            f"{len(bad)} of {len(bad) + len(catalog.pictures)} pictures cannot be read ({shown}, ...).",
            "`autotune data` lists them all. Mend or delete them, or leave them out: --skip-unreadable",
        )


def decode(path: Path) -> Image.Image:
    """One upright RGB picture, by the very code that an exported bundle carries. Raises UnreadableError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not path.is_file():  # also a pipe, which would be waited for
                raise UnreadableError("there is no such file")
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise UnreadableError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
            return standalone.decode(path)
    except UnidentifiedImageError as error:
        raise UnreadableError("not a picture, or of a format that Pillow cannot read") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"more than {MOST_PIXELS:,} pixels") from error
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UnreadableError(f"cannot be used: {str(error) or type(error).__name__}") from error


def digest(image: Image.Image) -> str:
    """32 hex digits that two pictures share only if they have the same size and the same RGB pixels."""
    sum_ = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=16)
    sum_.update(np.ascontiguousarray(image).data)  # the buffer, without another copy
    return sum_.hexdigest()


def _glanced_side(root: Path, files: Sequence[Found]) -> int:
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

    result: Picture | SetAside
    thumb: NDArray[np.uint8] | None = None
    cut: Any = None


def _examined(root: Path, found: Found, known: Mapping[str, Picture], shelf: Shelf | None) -> _Look:
    path = root / found.path
    try:
        status = path.stat()
        stamp = f"{status.st_size}-{status.st_mtime_ns}"
        before = known.get(found.path)
        if before and before.stamp == stamp:
            same = Picture(found.path, found.label, found.part, before.digest, before.side, stamp, found.group)
            return _Look(same)
        image = decode(path)
    except OSError as error:
        return _Look(SetAside(found.path, f"cannot be opened: {error.strerror}", bad=True))
    except UnreadableError as error:
        return _Look(SetAside(found.path, str(error), bad=True))
    picture = Picture(found.path, found.label, found.part, digest(image), min(image.size), stamp, found.group)
    return _Look(picture, near.thumb(image), shelf and shelf.cut(picture, image))


def _refuse_empty(source: Path, pictures: list[Picture], set_aside: list[SetAside]) -> None:
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
