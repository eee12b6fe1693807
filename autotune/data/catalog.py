"""The catalog: the labelled, readable pictures of a folder or a table."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotune.data.folder import UNLABELLED, LabelledFile, SkippedFile, list_folder
from autotune.data.near_duplicates import find_near_duplicates, thumbnail
from autotune.data.picture import Picture, UnreadableError, pixel_digest, read_picture
from autotune.data.table import is_table, list_table
from autotune.data.visits import AUTO, LEAST_VISITS, Shot, Signal, Visits, find_signals, group_by_visit, read_shot
from autotune.errors import DataError
from autotune.text import plural

BAD_SHARE = 0.1
READ_AT_ONCE = 512  # files submitted to the threads at a time; Ctrl-C waits for these only

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Catalog:
    """The pictures and the skipped files of a dataset. root: the folder that relative paths start from.

    near: pairs of near-duplicates, by digest; None if the pictures are too similar to distinguish. visits: a summary of
    the pictures' groups; signals: what could show visits.
    """

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    skipped: tuple[SkippedFile, ...]
    near: tuple[tuple[str, str], ...] | None = ()
    visits: Visits = field(default_factory=Visits)
    signals: tuple[Signal, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """The number of pictures per class, in the order of `classes`."""
        found = Counter(picture.label for picture in self.pictures)
        return {name: found[name] for name in self.classes}

    @property
    def duplicates(self) -> list[list[Picture]]:
        """Groups of two or more pictures with identical pixels."""
        groups: dict[str, list[Picture]] = defaultdict(list)
        for picture in self.pictures:
            groups[picture.digest].append(picture)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def side(self) -> int:
        """The median of the pictures' shorter sides, in pixels."""
        return int(np.median([picture.side for picture in self.pictures]))


class PictureSink(Protocol):
    """A receiver of every picture as it is decoded, to avoid decoding it again."""

    def begin(self, root: Path, files: Sequence[LabelledFile]) -> None:
        """Receive the files to be read, with paths relative to root. Called once, before the first file is read."""

    def offer(self, picture: Picture, image: Image.Image) -> None:
        """Receive a decoded picture. Called from several threads."""

    def close(self) -> None:
        """Called once, after all files have been read."""


def read_catalog(source: Path, known: Mapping[str, Picture] | None = None, progress: Progress | None = None,
                 sink: PictureSink | None = None, group_by: str = AUTO) -> Catalog:  # fmt: skip
    """Find, decode and hash every picture of a folder or table, in parallel.

    known: pictures of an earlier run, by path. Unchanged files are not decoded again, and neither near-duplicates nor
    visits are searched. group_by: as in `group_by_visit`. Raises DataError if the folder does not exist, has no
    pictures, has only one class or cannot be grouped.
    """
    root, files, skipped = _list_files(source)
    if sink:
        sink.begin(root, files)
    results = _read_files(root, files, known or {}, sink, progress or _ignore)
    if sink:
        sink.close()
    catalog = _catalog(source, root, results, skipped)
    _check_classes(source, catalog.classes)
    if known:
        return catalog
    near = _near_duplicates(results)
    return _with_visits(replace(catalog, near=near), results, group_by)


def refuse_few_classes(source: Path) -> None:
    """Raise DataError if a folder has no pictures or one class only, before a picture is read or torch is imported."""
    _, folders, _ = next(os.walk(source), ("", [], []))  # empty, too, if it may not be read
    if source.is_dir() and len(folders) < 2:
        _, files, skipped = _list_files(source)
        if not files:
            _check_not_empty(source, (), skipped)
        _check_classes(source, sorted({file.label for file in files}))


@dataclass(frozen=True)
class LaterCatalog:
    """Pictures that came after a study's. copies: near-duplicates or duplicates of the study's pictures: the path of
    each, and that of the study's picture.
    """

    catalog: Catalog
    copies: Mapping[str, str]


def read_later(source: Path, own: Sequence[Picture], own_root: Path, group_by: str, progress: Progress,
               own_progress: Progress) -> LaterCatalog:  # fmt: skip
    """Read pictures that came after those of a study, labelled or not, of one class or several.

    own: the study's pictures, whose copies are found; those that are no longer in own_root are compared by their digest
    only. Raises DataError if there are no pictures.
    """
    root, files, skipped = _list_files(source, with_unlabelled=True)
    results = _read_files(root, files, {}, None, progress)
    catalog = _with_visits(_catalog(source, root, results, skipped), results, group_by, least=1)
    paths = {one.digest: one.path for one in own}
    found = {one.path: paths[one.digest] for one in catalog.pictures if one.digest in paths}
    before = _read_files(own_root, [LabelledFile(one.path, one.label, None) for one in own], {}, None, own_progress)
    n_own = len(own)
    thumbs = [one.thumb for one in (*before, *results)]
    usable = [place for place, thumb in enumerate(thumbs) if thumb is not None]
    pairs = find_near_duplicates([thumb for thumb in thumbs if thumb is not None]) or ()
    for i, j in ((usable[i], usable[j]) for i, j in pairs):
        later = results[j - n_own].picture if i < n_own <= j else None
        if later:
            found.setdefault(later.path, own[i].path)
    return LaterCatalog(catalog, found)


def _catalog(source: Path, root: Path, results: Sequence[_ReadFile], skipped: Sequence[SkippedFile]) -> Catalog:
    """Return the catalog of read files. Raises DataError if there are no pictures."""
    pictures = tuple(one.picture for one in results if one.picture)
    all_skipped = sorted((*skipped, *(one.skipped for one in results if one.skipped)), key=lambda one: one.path)
    _check_not_empty(source, pictures, all_skipped)
    return Catalog(root, tuple(sorted({picture.label for picture in pictures})), pictures, tuple(all_skipped))


def _with_visits(catalog: Catalog, results: Sequence[_ReadFile], group_by: str, least: int = LEAST_VISITS) -> Catalog:
    """Return a catalog whose pictures are grouped by visit. least: visits that a class needs."""
    shots = {one.picture.path: one.shot for one in results if one.picture and one.shot}
    signals = find_signals(catalog.pictures, shots)
    grouped, visits = group_by_visit(catalog.pictures, signals, catalog.near or (), group_by, least)
    return replace(catalog, pictures=grouped, visits=visits, signals=signals)


def check_readable(catalog: Catalog) -> None:
    """Raise DataError if over 10 % of the pictures cannot be read, which suggests a systematic fault."""
    bad = [one for one in catalog.skipped if one.bad]
    if len(bad) > BAD_SHARE * (len(bad) + len(catalog.pictures)):
        shown = "; ".join(f"{one.path}: {one.reason}" for one in bad[:3])
        raise DataError(
            f"{len(bad)} of {len(bad) + len(catalog.pictures)} pictures cannot be read ({shown}, ...).",
            "Run `autotune data` to list them. Fix or delete them, or skip them with --skip-unreadable.",
        )


@dataclass(frozen=True)
class _ReadFile:
    """The result of reading one file: a picture or a skipped file. thumb, shot: of decoded pictures that have one."""

    picture: Picture | None = None
    skipped: SkippedFile | None = None
    thumb: NDArray[np.uint8] | None = None
    shot: Shot | None = None


def _list_files(source: Path, with_unlabelled: bool = False) -> tuple[Path, list[LabelledFile], list[SkippedFile]]:
    """Return the root of relative paths, the files that may be pictures, and the skipped files."""
    if is_table(source):
        root, (files, skipped) = source.parent, list_table(source)
    elif source.is_dir():
        root, (files, skipped) = source, list_folder(source, with_unlabelled)
    else:
        raise DataError(f"Folder {source} does not exist.", "Name a folder with one folder of pictures per class.")
    labels = dict.fromkeys(file.label for file in files if file.label != UNLABELLED)
    if broken := next((label for label in labels if label.splitlines() != [label]), None):
        raise DataError(
            f"The name of class {broken!r} is not a single line, which the labels.txt of a bundle requires.",
            "Rename its folder, or change the label in the table.",
        )
    return root, files, skipped


def _read_files(root: Path, files: Sequence[LabelledFile], known: Mapping[str, Picture], sink: PictureSink | None,
                progress: Progress) -> list[_ReadFile]:  # fmt: skip
    """Read files in parallel. The results are in the order of `files`."""
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
    return _ReadFile(picture, thumb=thumbnail(image), shot=read_shot(image))


def _near_duplicates(results: Iterable[_ReadFile]) -> tuple[tuple[str, str], ...] | None:
    """Return pairs of near-duplicates, by digest."""
    thumbs = {one.picture.digest: one.thumb for one in results if one.picture and one.thumb is not None}
    digests = list(thumbs)
    pairs = find_near_duplicates(list(thumbs.values()))
    return None if pairs is None else tuple((digests[i], digests[j]) for i, j in pairs)


def _check_not_empty(source: Path, pictures: Sequence[Picture], skipped: Sequence[SkippedFile]) -> None:
    if pictures:
        return
    fix = "Create one folder of pictures per class in it."
    if skipped:
        first = skipped[0]
        raise DataError(
            f"{source} contains no usable picture; {plural(len(skipped), 'file')} skipped, "
            f"first {first.path}: {first.reason}.",
            fix,
        )
    raise DataError(f"Folder {source} is empty.", fix)


def _check_classes(source: Path, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise DataError(
            f"{source} contains only one class, {classes[0]!r}.", "Create one folder per class, at least two."
        )


def _ignore(done: int, total: int) -> None:
    """Ignore progress updates."""
