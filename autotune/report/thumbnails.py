"""Thumbnails of pictures, small enough to embed in an HTML file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from autotune.data.picture import UnreadableError, read_picture

LONGEST = 160  # pixels of the longer side
TINY = 64  # up to this side length every pixel is kept, and displayed as a square
QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail. path: relative to the study's root. source: a data URI, or None if it cannot be displayed.

    width, height: of the thumbnail, in pixels.
    """

    path: str
    source: str | None = None
    width: int = 0
    height: int = 0

    @property
    def is_tiny(self) -> bool:
        return 0 < max(self.width, self.height) <= TINY


def thumbnail(root: Path, path: str, longest: int = LONGEST) -> Thumbnail:
    """Return a thumbnail; without a source if the picture is missing or cannot be read. longest: side, in pixels."""
    try:
        image = read_picture(root / path)
    except (OSError, UnreadableError, ValueError):  # ValueError: the path contains a null byte
        return Thumbnail(path)
    image.thumbnail((longest, longest))
    kind = "png" if max(image.size) <= TINY else "jpeg"
    file = io.BytesIO()
    image.save(file, kind, quality=QUALITY)
    return Thumbnail(path, _uri(file.getvalue(), kind), image.width, image.height)


def first_shown(root: Path, paths: list[str], most: int) -> list[Thumbnail]:
    """Return thumbnails of the first `most` pictures that can be displayed."""
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
