"""Reading a picture as upright RGB pixels, and the digest of its content."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from autotune.data.decode import FORMATS, decode_image, open_image

with contextlib.suppress(ImportError):  # the extra `heic`
    import pillow_heif

    pillow_heif.register_heif_opener()

MOST_PIXELS = 200_000_000
BIG_PIXELS = 25_000_000
# Of content from strangers: other decoders keep all threads waiting, take minutes, or decode before the size is known.
FROM_STRANGERS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")
BYTES_A_PIXEL = 16  # at most, while a picture is decoded
_one_at_a_time = threading.Lock()  # for big pictures, because several threads decode


@dataclass(frozen=True)
class Picture:
    """One readable picture. path: relative to the catalog's root, or absolute. part: as given by the folder or table.

    digest: 32 hex digits that identify its upright RGB pixels; duplicates have equal digests. side: the shorter one, in
    pixels. stamp: size and time of the file, to detect unchanged files without decoding. group: pictures of one group
    must stay in one part; "" for none.
    """

    path: str
    label: str
    part: str | None
    digest: str
    side: int
    stamp: str
    group: str = ""


def picture_suffixes() -> set[str]:
    """Return the suffixes of the formats that are read, lower case, with the dot."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}


class UnreadableError(Exception):
    """Raised for a file that is skipped, with the reason."""


def read_picture(source: Path | bytes, most_pixels: int | None = None) -> Image.Image:
    """Return an upright RGB picture, decoded by the code that is exported in bundles. Raises UnreadableError.

    source: a file, or content in one of the formats FROM_STRANGERS. most_pixels: of a picture, MOST_PIXELS by default;
    larger ones are not decoded.
    """
    most_pixels = most_pixels or MOST_PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(source, Path) and not source.is_file():  # opening a pipe would block
                raise UnreadableError("file not found")
            formats = FROM_STRANGERS if isinstance(source, bytes) else FORMATS
            with open_image(_opened(source), formats) as image:
                n_pixels = image.width * image.height
                if n_pixels > most_pixels:
                    raise UnreadableError(f"{image.width} x {image.height} pixels, more than {most_pixels:,}")
            with _one_at_a_time if n_pixels > BIG_PIXELS else contextlib.nullcontext():
                return decode_image(_opened(source), formats)
    except UnidentifiedImageError as error:
        raise UnreadableError("not a picture, or in an unsupported format") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"more than {most_pixels:,} pixels") from error
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        raise UnreadableError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _opened(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def pixel_digest(image: Image.Image) -> str:
    """Return 32 hex digits that are equal only for pictures of the same size and the same RGB pixels."""
    hash_ = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=16)
    hash_.update(np.ascontiguousarray(image).data)  # the buffer, without a copy
    return hash_.hexdigest()
