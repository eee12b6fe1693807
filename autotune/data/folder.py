"""Listing a folder of pictures: classes and parts are taken from the names of its folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autotune.data.picture import picture_suffixes
from autotune.errors import DataError

PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}
HEIC = {".heic", ".heif", ".hif"}
RAW = {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw", ".x3f"}


@dataclass(frozen=True)
class LabelledFile:
    """A file that may be a picture. path: relative to the root, or absolute. part, group: from the folder or table."""

    path: str
    label: str
    part: str | None
    group: str = ""


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not used. bad: it has a picture's file name but cannot be read."""

    path: str
    reason: str
    bad: bool


UNLABELLED = ""  # the label of a file that is in no class folder


def list_folder(root: Path, with_unlabelled: bool = False) -> tuple[list[LabelledFile], list[SkippedFile]]:
    """Return the files that may be pictures, with class and part, and the skipped files. Raises DataError.

    with_unlabelled: those in no class folder are UNLABELLED instead of skipped.
    """
    parts = _parts(root)
    files: list[LabelledFile] = []
    skipped: list[SkippedFile] = []
    for path in _walk(root):
        inner = path.relative_to(root).parts
        name = "/".join(inner)
        part = parts.get(inner[0]) if parts else None
        label = inner[1:-1] if parts else inner[:-1]
        if not _is_text(name):
            skipped.append(
                SkippedFile(name.encode(errors="replace").decode(), "its name is not valid Unicode", bad=False)
            )
        elif parts and part is None:
            skipped.append(SkippedFile(name, f"outside {', '.join(sorted(parts))}", bad=False))
        elif not label and not with_unlabelled:
            skipped.append(SkippedFile(name, "not in a class folder", bad=False))
        elif other := other_format(name):
            skipped.append(other)
        else:
            files.append(LabelledFile(name, label[0] if label else UNLABELLED, part))
    return files, skipped


def other_format(name: str) -> SkippedFile | None:
    """Return why a file of this name cannot be read and what can read it; None if its format is supported."""
    suffix = Path(name).suffix.lower()
    if suffix in picture_suffixes():
        return None
    if suffix in HEIC:
        return SkippedFile(name, "HEIC, which requires pillow-heif: pip install 'autotune-vision[heic]'", bad=True)
    if suffix in RAW:
        return SkippedFile(name, f"camera raw file ({suffix}), which rawpy reads: convert it to JPEG or TIFF", bad=True)
    return SkippedFile(name, f"not a picture file ({suffix or 'no suffix'})", bad=False)


def _parts(root: Path) -> dict[str, str]:
    """Return the folders that name parts: {"train": "train", "valid": "validation", ...}; empty without a `train`."""
    try:
        folders = {path.name for path in root.iterdir() if path.is_dir()}
    except OSError as error:
        raise DataError(f"Folder {root} cannot be read: {error.strerror}.", "Change its permissions.") from error
    given = {name: PARTS[name] for name in folders if name in PARTS} if "train" in folders else {}
    if len(set(given.values())) < len(given):
        raise DataError(
            f"{root} contains several validation folders: {', '.join(sorted(given))}.",
            "Keep one of val, valid, validation.",
        )
    return given


def _walk(root: Path) -> Iterable[Path]:
    """Yield all files below root except hidden ones, in a fixed order. Links are followed, each folder once."""
    seen: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or {"record.db", "manifest.csv"} <= set(names):  # a loop of links, or a study folder
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not _clutter(name))
        yield from (Path(folder, name) for name in sorted(names) if not _clutter(name))


def _is_text(name: str) -> bool:
    """Return whether a file name is valid Unicode; Python decodes invalid bytes to lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER
