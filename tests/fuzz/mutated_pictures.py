"""Read seeded mutations of pictures in all common formats, and print what happened as JSON.

python tests/fuzz/mutated_pictures.py SEED N FOLDER

Each file must either be read or raise UnreadableError. A file that does anything else is kept in FOLDER.
"""

import io
import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autotune.data.decode import crop_square
from autotune.data.picture import UnreadableError, read_picture

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "DDS")
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 13_000, 65_500)


def originals(rng: np.random.Generator) -> list[tuple[str, bytes]]:
    """Return small pictures, by format, in several modes and with several options of their encoder."""
    noise = rng.integers(0, 256, (37, 53, 4), dtype=np.uint8)
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)[..., None].repeat(4, 2)
    deep = Image.fromarray(rng.integers(0, 65536, (20, 30)).astype(np.uint16))
    pictures = [(Image.fromarray(pixels).convert(mode), mode) for pixels in (noise, smooth)
                for mode in ("RGB", "L", "P", "RGBA", "CMYK", "1")]  # fmt: skip
    pictures.append((deep, "I;16"))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = []
    for kind in FORMATS:
        for picture, _ in pictures:
            for options in ({}, {"exif": exif}, {"progressive": True}, {"compression": "tiff_lzw"}, {"save_all": True}):
                out = io.BytesIO()
                try:
                    picture.save(out, kind, **options)  # type: ignore[arg-type]
                except (OSError, KeyError, ValueError, TypeError):  # not every format has every mode and option
                    continue
                found.append((kind, out.getvalue()))
    return found


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return a picture file after one to eight random changes. other: a file to take pieces from."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        place = int(min(rng.integers(len(out)), rng.integers(len(out)))) if out else 0  # headers more often
        length = int(rng.integers(1, 40))
        match int(rng.integers(7)):
            case 0:
                out[place : place + 1] = bytes([int(rng.integers(256))])
            case 1:
                out[place : place + 1] = bytes([(out[place] if place < len(out) else 0) ^ (1 << int(rng.integers(8)))])
            case 2:
                del out[place : place + length]
            case 3:
                out[place:place] = out[place : place + length]
            case 4:
                start = int(rng.integers(len(other)))
                out[place : place + length] = other[start : start + length]
            case 5:
                size = int(rng.choice([1, 2, 4]))
                extreme = int(rng.choice(EXTREMES)) % 256**size
                out[place : place + size] = extreme.to_bytes(size, "little" if rng.random() < 0.5 else "big")
            case _:
                if rng.random() < 0.3:
                    del out[place:]
    return bytes(out)


def outcome(file: Path) -> str:
    """Read a file as autotune does, and return what happened. Any exception but UnreadableError passes through."""
    try:
        crop_square(read_picture(file), 32, "bilinear")
    except UnreadableError:
        return "unreadable"
    return "read"


def main(seed: int, n: int, folder: Path) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    files = originals(rng)
    outcomes, slowest = Counter[str](), (0.0, "")
    failures: dict[str, str] = {}
    for number in range(n):
        kind, content = files[int(rng.integers(len(files)))]
        file = folder / f"{number}.{kind.lower()}"
        file.write_bytes(mutated(content, files[int(rng.integers(len(files)))][1], rng))
        start = time.process_time()
        try:
            outcomes[outcome(file)] += 1
        except Exception as error:
            failures[str(file)] = f"{type(error).__name__}: {error}"
            continue
        seconds = time.process_time() - start
        slowest = max(slowest, (seconds, str(file)))
        if seconds < 2:
            file.unlink()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"n": n, **outcomes, "failures": failures, "slowest_seconds": slowest[0], "peak_bytes": peak}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
