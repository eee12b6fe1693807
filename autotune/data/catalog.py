"""The catalog: the labelled, readable pictures of a folder or a table."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotune.data.folder import LabelledFile, SkippedFile, list_folder
from autotune.data.near_duplicates import find_near_duplicates, thumbnail
from autotune.data.picture import Picture, UnreadableError, pixel_digest, read_picture
from autotune.data.table import is_table, list_table
from autotune.errors import DataError

BAD_SHARE = 0.1
READ_AT_ONCE = 512  # files handed to the threads at a time, so that few are waited for after Ctrl-C

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Catalog:
    """Pictures, and the files that were set aside. root: where relative paths start.

    near: pairs of near-copies, by digest; None where the pictures are too much alike to tell.
    """

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    skipped: tuple[SkippedFile, ...]
    near: tuple[tuple[str, str], ...] | None = ()

    @property
    def counts(self) -> dict[str, int]:
        """Pictures per class, in the order of classes."""
        found = Counter(picture.label for picture in self.pictures)
        return {name: found[name] for name in self.classes}

    @property
    def duplicates(self) -> list[list[Picture]]:
        """Groups of two or more pictures with the same pixels."""
        groups: dict[str, list[Picture]] = defaultdict(list)
        for picture in self.pictures:
            groups[picture.digest].append(picture)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def side(self) -> int:
        """The median shorter side, in pixels."""
        return int(np.median([picture.side for picture in self.pictures]))


class PictureSink(Protocol):
    """Is offered every picture while it is decoded, so that it need not be decoded again for what is wanted of it."""

    def begin(self, root: Path, files: Sequence[LabelledFile]) -> None:
        """These files will be read; their paths start at root. Called once, before the first is read."""

    def offer(self, picture: Picture, image: Image.Image) -> None:
        """A decoded picture. Called from several threads."""

    def close(self) -> None:
        """All files have been read."""


def read_catalog(source: Path, known: Mapping[str, Picture] | None = None, progress: Progress | None = None,
                 sink: PictureSink | None = None) -> Catalog:  # fmt: skip
    """Find, decode and hash every picture of a folder or table, in parallel.

    known: pictures of an earlier run, by path. Those whose files are unchanged are not decoded again, and near-copies
    are not searched. Raises DataError: no such folder, no pictures, one class.
    """
    root, files, skipped = _list_files(source)
    if sink:
        sink.begin(root, files)
    results = _read_files(root, files, known or {}, sink, progress or _ignore)
    if sink:
        sink.close()
    pictures = tuple(one.picture for one in results if one.picture)
    skipped += [one.skipped for one in results if one.skipped]
    _refuse_empty(source, pictures, skipped)
    classes = tuple(sorted({picture.label for picture in pictures}))
    _refuse_single_class(source, classes)
    near = () if known else _near_duplicates(results)
    return Catalog(root, classes, pictures, tuple(sorted(skipped, key=lambda one: one.path)), near)


def refuse_many_unreadable(catalog: Catalog) -> None:
    """Raise DataError where over a tenth of the pictures cannot be read: more likely a fault than a few bad files."""
    bad = [one for one in catalog.skipped if one.bad]
    if len(bad) > BAD_SHARE * (len(bad) + len(catalog.pictures)):
        shown = "; ".join(f"{one.path}: {one.reason}" for one in bad[:3])
        raise DataError(
            f"{len(bad)} of {len(bad) + len(catalog.pictures)} pictures cannot be read ({shown}, ...).",
            "`autotune data` lists them all. Fix or delete them, or leave them out: --skip-unreadable",
        )


@dataclass(frozen=True)
class _ReadFile:
    """What became of one file: a picture, or the reason why not. thumb: of a decoded picture that has one."""

    picture: Picture | None = None
    skipped: SkippedFile | None = None
    thumb: NDArray[np.uint8] | None = None


def _list_files(source: Path) -> tuple[Path, list[LabelledFile], list[SkippedFile]]:
    """The root that paths start at, the files that may be pictures, and those that cannot be."""
    if is_table(source):
        return source.parent, *list_table(source)
    if not source.is_dir():
        raise DataError(f"There is no folder {source}.", "Name a folder that holds one folder of pictures a class.")
    return source, *list_folder(source)


def _read_files(root: Path, files: Sequence[LabelledFile], known: Mapping[str, Picture], sink: PictureSink | None,
                progress: Progress) -> list[_ReadFile]:  # fmt: skip
    """Read files in parallel; the results are in the order of files."""
    results: list[_ReadFile] = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for first in range(0, len(files), READ_AT_ONCE):
            chunk = files[first : first + READ_AT_ONCE]
            for result in pool.map(lambda file: _read_file(root, file, known, sink), chunk):
                results.append(result)
                progress(len(results), len(files))
    finally:
        pool.shutdown(cancel_futures=True)
    return results


def _read_file(root: Path, file: LabelledFile, known: Mapping[str, Picture], sink: PictureSink | None) -> _ReadFile:
    path = root / file.path
    try:
        status = path.stat()
        stamp = f"{status.st_size}-{status.st_mtime_ns}"
        before = known.get(file.path)
        if before and before.stamp == stamp:
            return _ReadFile(replace(before, label=file.label, part=file.part, group=file.group))
        image = read_picture(path)
    except OSError as error:
        return _ReadFile(skipped=SkippedFile(file.path, f"cannot be opened: {error.strerror}", bad=True))
    except UnreadableError as error:
        return _ReadFile(skipped=SkippedFile(file.path, str(error), bad=True))
    picture = Picture(file.path, file.label, file.part, pixel_digest(image), min(image.size), stamp, file.group)
    if sink:
        sink.offer(picture, image)
    return _ReadFile(picture, thumb=thumbnail(image))


def _near_duplicates(results: Iterable[_ReadFile]) -> tuple[tuple[str, str], ...] | None:
    """Pairs of near-copies, by digest."""
    thumbs = {one.picture.digest: one.thumb for one in results if one.picture and one.thumb is not None}
    digests = list(thumbs)
    pairs = find_near_duplicates(list(thumbs.values()))
    return None if pairs is None else tuple((digests[i], digests[j]) for i, j in pairs)


def _refuse_empty(source: Path, pictures: Sequence[Picture], skipped: Sequence[SkippedFile]) -> None:
    if pictures:
        return
    fix = "Put the pictures of each class into a folder of its own below it."
    if skipped:
        first = skipped[0]
        raise DataError(
            f"{source} has no picture that can be used; {len(skipped)} files were set aside, "
            f"the first, {first.path}: {first.reason}.",
            fix,
        )
    raise DataError(f"{source} is empty.", fix)


def _refuse_single_class(source: Path, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise DataError(
            f"{source} holds one class, {classes[0]!r}.", "Give each class a folder of its own; two at least."
        )


def _ignore(done: int, total: int) -> None:
    """Progress that nobody follows."""
