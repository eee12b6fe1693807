"""Thumbnails: pictures of a study, small enough to be part of an HTML file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from autotune.data.picture import UnreadableError, read_picture

LONGEST = 160  # pixels on the longer side
TINY = 64  # pixels up to which every one is kept, and shown as a square of its own
QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """One picture by its path below the study's root. source: a data URI, or None where it cannot be shown.

    width, height: pixels of what source holds.
    """

    path: str
    source: str | None = None
    width: int = 0
    height: int = 0

    @property
    def is_tiny(self) -> bool:
        return 0 < max(self.width, self.height) <= TINY


def thumbnail(root: Path, path: str) -> Thumbnail:
    """A picture made small. One that is gone or cannot be read has no source, and fails nothing."""
    try:
        image = read_picture(root / path)
    except (OSError, UnreadableError, ValueError):  # ValueError: a path that holds a zero byte
        return Thumbnail(path)
    image.thumbnail((LONGEST, LONGEST))
    kind = "png" if max(image.size) <= TINY else "jpeg"
    file = io.BytesIO()
    image.save(file, kind, quality=QUALITY)
    return Thumbnail(path, _uri(file.getvalue(), kind), image.width, image.height)


def first_shown(root: Path, paths: list[str], most: int) -> list[Thumbnail]:
    """The first of these pictures that can be shown, at most so many."""
    found: list[Thumbnail] = []
    for path in paths:
        if len(found) == most:
            break
        one = thumbnail(root, path)
        if one.source:
            found.append(one)
    return found


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
