"""A folder of pictures: its files, with the class and the part that their folders name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from autotune.errors import DataError

PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
CLUTTER = {"thumbs.db", "desktop.ini", "__macosx"}
HEIC = {".heic", ".heif", ".hif"}
RAW = {".3fr", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw", ".x3f"}


@dataclass(frozen=True)
class LabelledFile:
    """A file that should be a picture. path: relative to the root, or absolute. part, group: as its source says."""

    path: str
    label: str
    part: str | None
    group: str = ""


@dataclass(frozen=True)
class SkippedFile:
    """A file that is not used. bad: its name is a picture's, but it cannot be read."""

    path: str
    reason: str
    bad: bool


def list_folder(root: Path) -> tuple[list[LabelledFile], list[SkippedFile]]:
    """Every file that might be a picture, with its class and part, and those that cannot be. Raises DataError."""
    parts = _parts(root)
    files: list[LabelledFile] = []
    aside: list[SkippedFile] = []
    for path in _walk(root):
        inner = path.relative_to(root).parts
        name = "/".join(inner)
        part = parts.get(inner[0]) if parts else None
        label = inner[1:-1] if parts else inner[:-1]
        if not _is_text(name):
            aside.append(
                SkippedFile(name.encode(errors="replace").decode(), "its name is not valid Unicode", bad=False)
            )
        elif parts and part is None:
            aside.append(SkippedFile(name, f"lies outside {', '.join(sorted(parts))}", bad=False))
        elif not label:
            aside.append(SkippedFile(name, "lies in no class's folder", bad=False))
        elif other := other_format(name):
            aside.append(other)
        else:
            files.append(LabelledFile(name, label[0], part))
    return files, aside


def other_format(name: str) -> SkippedFile | None:
    """Why a file of this name cannot be read, and what would read it; None where it can be tried."""
    ending = Path(name).suffix.lower()
    if ending in Image.registered_extensions():
        return None
    if ending in HEIC:
        return SkippedFile(name, "HEIC, which pillow-heif reads: pip install 'autotune-vision[heic]'", bad=True)
    if ending in RAW:
        return SkippedFile(
            name, f"a camera's raw file ({ending}), which rawpy reads: save it as JPEG or TIFF", bad=True
        )
    return SkippedFile(name, f"not a picture's file name ({ending or 'no ending'})", bad=False)


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
        if real in seen or {"record.db", "manifest.csv"} <= set(names):  # a loop of links, or a study of ours
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not _clutter(name))
        yield from (Path(folder, name) for name in sorted(names) if not _clutter(name))


def _is_text(name: str) -> bool:
    """Whether a file name is valid Unicode; Python gives undecodable bytes as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER
