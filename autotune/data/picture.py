"""One picture: how a file becomes upright RGB pixels, and how its content is named."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from autotune.data.decode import decode_image

with contextlib.suppress(ImportError):  # the extra `heic`
    import pillow_heif

    pillow_heif.register_heif_opener()

MOST_PIXELS = 200_000_000


@dataclass(frozen=True)
class Picture:
    """One readable picture. path: relative to the catalog's root, or absolute. part, group: as its source says.

    digest: 32 hex digits of its upright RGB pixels, so that equal digests are copies. side: the shorter one, in pixels.
    stamp: size and time of its file, by which a later run recognises it without decoding. group: pictures of one group
    must stay in one part; "" for none.
    """

    path: str
    label: str
    part: str | None
    digest: str
    side: int
    stamp: str
    group: str = ""


class UnreadableError(Exception):
    """Why one file is set aside; the rest are read all the same."""


def read_picture(path: Path) -> Image.Image:
    """One upright RGB picture, decoded by the code that an exported bundle carries. Raises UnreadableError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not path.is_file():  # opening a pipe would wait for it
                raise UnreadableError("there is no such file")
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise UnreadableError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
            return decode_image(path)
    except UnidentifiedImageError as error:
        raise UnreadableError("not a picture, or of a format that Pillow cannot read") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"more than {MOST_PIXELS:,} pixels") from error
    except UnreadableError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on a damaged file
        raise UnreadableError(f"cannot be used: {str(error) or type(error).__name__}") from error


def pixel_digest(image: Image.Image) -> str:
    """32 hex digits that two pictures share only if they have the same size and the same RGB pixels."""
    hash_ = hashlib.blake2b(f"{image.width}x{image.height}".encode(), digest_size=16)
    hash_.update(np.ascontiguousarray(image).data)  # the buffer, without another copy
    return hash_.hexdigest()
