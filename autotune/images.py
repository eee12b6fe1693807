"""Pictures: a folder, or the built-in sample, becomes a catalogue of labelled, readable pictures."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from autotune import standalone
from autotune.errors import DataError

SAMPLE = "digits"
PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}
BAD_SHARE = 0.1
MOST_PIXELS = 200_000_000

READ_AT_ONCE = 512  # files between two waits, so that what is kept of them stays bounded
UNOPENED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what opening a damaged file raises
GLANCED = 1000  # files whose headers are looked at beforehand

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Picture:
    """One readable picture. path: relative to the catalogue's root, with forward slashes. part: as its folder says.

    digest: 32 hex digits of its upright RGB pixels, so that equal digests are copies. stamp: size and time of its
    file, by which a later run knows it again without decoding.
    """

    path: str
    label: str
    part: str | None
    digest: str
    side: int
    stamp: str


@dataclass(frozen=True)
class SetAside:
    """A file that is not used. bad: it claims to be a picture and cannot be read."""

    path: str
    reason: str
    bad: bool


@dataclass(frozen=True)
class Catalog:
    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    set_aside: tuple[SetAside, ...]

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
    def contradictions(self) -> list[list[Picture]]:
        """Copies whose labels differ."""
        return [group for group in self.copies if len({picture.label for picture in group}) > 1]

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


def read(root: Path, known: Mapping[str, Picture] | None = None, progress: Progress | None = None,
         shelf_for: Callable[[int], Shelf] | None = None) -> Catalog:  # fmt: skip
    """Find, decode and hash every picture under root, in parallel. known: pictures of an earlier run, by path.

    shelf_for: makes a shelf for pictures of about this median shorter side, in pixels, as their headers say.
    Raises DataError: no such folder, no pictures, one class, too many that cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.", "Name a folder that holds one folder of pictures a class.")
    files, set_aside = _listed(root)
    pictures: list[Picture] = []
    shelf = shelf_for(_glanced_side(root, files)) if shelf_for else None
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(files), READ_AT_ONCE):
            chunk = files[first : first + READ_AT_ONCE]
            jobs = pool.map(lambda found: _examined(root, found, known or {}, shelf), chunk)
            for done, (result, cut) in enumerate(jobs, first + 1):
                (pictures if isinstance(result, Picture) else set_aside).append(result)  # type: ignore[arg-type]
                if shelf and isinstance(result, Picture) and cut is not None:
                    shelf.put(result.digest, cut)
                if progress:
                    progress(done, len(files))
    if shelf:
        shelf.close()
    _refuse_empty(root, pictures, set_aside)
    classes = tuple(sorted({picture.label for picture in pictures}))
    if len(classes) < 2:
        raise DataError(
            f"{root} holds one class, {classes[0]!r}.", "Give each class a folder of its own; two at least."
        )
    return Catalog(root, classes, tuple(pictures), tuple(sorted(set_aside, key=lambda one: one.path)))


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


def sample_folder(cache: Path) -> Path:
    return (cache / "samples" / SAMPLE).resolve()


def sample(cache: Path) -> Path:
    """The built-in sample as a folder of PNG files: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels."""
    folder = sample_folder(cache)
    if folder.is_dir():
        return folder
    from sklearn.datasets import load_digits

    digits = load_digits()
    unfinished = cache / "samples" / f".{SAMPLE}.{os.getpid()}"
    for number, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = unfinished / str(label) / f"{number:04d}.png"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"{file.parent} cannot be made: {error.strerror}."
            raise DataError(problem, "Set AUTOTUNE_CACHE to a folder that you may write.") from error
        Image.fromarray((values * (255 / 16)).round().astype(np.uint8)).save(file)
    try:
        unfinished.rename(folder)
    except OSError:  # another run finished first
        if not folder.is_dir():
            raise
    return folder


Found = tuple[str, str, str | None]  # path, label, part


def _listed(root: Path) -> tuple[list[Found], list[SetAside]]:
    """Every file that might be a picture, with its class and part, and those that cannot be."""
    known = Image.registered_extensions()
    parts = _parts(root)
    files: list[Found] = []
    aside: list[SetAside] = []
    for path in _walk(root):
        inner = path.relative_to(root).parts
        name = "/".join(inner)
        part = parts.get(inner[0]) if parts else None
        label = inner[1:-1] if parts else inner[:-1]
        if not _is_text(name):
            aside.append(SetAside(name.encode(errors="replace").decode(), "its name is not valid Unicode", bad=False))
        elif parts and part is None:
            aside.append(SetAside(name, f"lies outside {', '.join(sorted(parts))}", bad=False))
        elif not label:
            aside.append(SetAside(name, "lies in no class's folder", bad=False))
        elif path.suffix.lower() not in known:
            aside.append(SetAside(name, f"not a picture's file name ({path.suffix or 'no ending'})", bad=False))
        else:
            files.append((name, label[0], part))
    return files, aside


def _parts(root: Path) -> dict[str, str]:
    """The folders that name parts, where there is a `train`: {"train": "train", "valid": "validation", ...}."""
    folders = {path.name for path in root.iterdir() if path.is_dir()}
    given = {name: PARTS[name] for name in folders if name in PARTS} if "train" in folders else {}
    if len(set(given.values())) < len(given):
        raise DataError(
            f"{root} has several folders for validation: {', '.join(sorted(given))}.",
            "Keep one of val, valid, validation.",
        )
    return given


def _walk(root: Path) -> Iterable[Path]:
    """All files below root but hidden ones, in a fixed order; links are followed, each folder once."""
    seen: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or {"record.db", "manifest.csv"} <= set(names):  # been here, or a study of ours
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not _clutter(name))
        yield from (Path(folder, name) for name in sorted(names) if not _clutter(name))


def _is_text(name: str) -> bool:
    """Whether a file name is what it should be; undecodable bytes come as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER


def _glanced_side(root: Path, files: Sequence[Found]) -> int:
    """The median shorter side of some files, evenly spread, by their headers; 0 where none can be opened."""
    sides = []
    for name, _, _ in files[:: max(len(files) // GLANCED, 1)]:
        if not (root / name).is_file():
            continue
        with contextlib.suppress(*UNOPENED), Image.open(root / name) as image:  # what is wrong with it is said later
            sides.append(min(image.size))
    return int(np.median(sides)) if sides else 0


def _examined(root: Path, found: Found, known: Mapping[str, Picture],
              shelf: Shelf | None) -> tuple[Picture | SetAside, Any]:  # fmt: skip
    """One file as a picture, and what the shelf wants of it."""
    name, label, part = found
    path = root / name
    try:
        status = path.stat()
        stamp = f"{status.st_size}-{status.st_mtime_ns}"
        before = known.get(name)
        if before and before.stamp == stamp:
            return Picture(name, label, part, before.digest, before.side, stamp), None
        image = decode(path)
    except OSError as error:
        return SetAside(name, f"cannot be opened: {error.strerror}", bad=True), None
    except UnreadableError as error:
        return SetAside(name, str(error), bad=True), None
    picture = Picture(name, label, part, digest(image), min(image.size), stamp)
    return picture, shelf and shelf.cut(picture, image)


def _refuse_empty(root: Path, pictures: list[Picture], set_aside: list[SetAside]) -> None:
    if pictures:
        return
    if set_aside:
        first = set_aside[0]
        raise DataError(
            f"{root} has no picture that can be used; {len(set_aside)} files were set aside, "
            f"the first, {first.path}: {first.reason}.",
            "Put the pictures of each class into a folder of its own below it.",
        )
    raise DataError(f"{root} is empty.", "Put the pictures of each class into a folder of its own below it.")
