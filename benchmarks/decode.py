"""Compare the speed of JPEG libraries, and their pixels with Pillow's.

    python benchmarks/decode.py PHOTOS [THREADS]

Measures pictures per second for the folder's JPEGs and for 12-megapixel JPEGs composed of them: decoding to RGB only,
and the whole reading step (decode, hash, resize to 224 pixels), on one thread and on all. Libraries that are not
installed are skipped. Medians of RUNS interleaved runs.
"""

import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from machine import line
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from autotune.data.decode import crop_square
from autotune.data.picture import pixel_digest, read_picture

RUNS, N_SMALL, N_LARGE = 3, 200, 16
Decoder = Callable[[Path], Image.Image | np.ndarray]


def by_torchvision(file: Path) -> np.ndarray:
    pixels: np.ndarray = decode_jpeg(read_file(str(file)), mode=ImageReadMode.RGB).permute(1, 2, 0).numpy()
    return pixels


def by_opencv(file: Path) -> np.ndarray:
    import cv2

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels: np.ndarray = cv2.cvtColor(cv2.imread(str(file), flags), cv2.COLOR_BGR2RGB)
    return pixels


def by_simplejpeg(file: Path) -> np.ndarray:
    import simplejpeg

    pixels: np.ndarray = simplejpeg.decode_jpeg(file.read_bytes())
    return pixels


def decoders() -> dict[str, Decoder]:
    extra = {"cv2": by_opencv, "simplejpeg": by_simplejpeg}
    installed = {package: decoder for package, decoder in extra.items() if importlib.util.find_spec(package)}
    return {"Pillow": read_picture, "torchvision": by_torchvision, **installed}


def whole(decoder: Decoder, file: Path) -> np.ndarray:
    """Read a picture as autotune does, with this decoder."""
    got = decoder(file)
    image = got if isinstance(got, Image.Image) else Image.fromarray(got)
    pixel_digest(image)
    return crop_square(image, 224, "bicubic")


def rate(work: Callable[[Path], object], files: Sequence[Path], threads: int) -> float:
    """Return pictures per second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, files):
            pass
    return len(files) / (time.perf_counter() - start)


def differing(decoder: Decoder, files: Sequence[Path]) -> str:
    """Return how many pictures differ from Pillow's, and by how much at most."""
    most, n = 0, 0
    for file in files:
        off = np.abs(np.asarray(decoder(file)).astype(int) - np.asarray(read_picture(file))).max()
        most, n = max(most, int(off)), n + bool(off)
    return f"{n} of {len(files)}" + (f", by up to {most}" if n else "")


def enlarged(files: Sequence[Path], folder: Path) -> list[Path]:
    """Write camera-sized JPEGs of 4,000 x 3,000 pixels, each composed of twelve photos."""
    out = []
    for number in range(N_LARGE):
        sheet = Image.new("RGB", (4000, 3000))
        for place in range(12):
            photo = Image.open(files[(12 * number + place) % len(files)]).convert("RGB").resize((1000, 1000))
            sheet.paste(photo, (1000 * (place % 4), 1000 * (place // 4)))
        out.append(folder / f"{number}.jpg")
        sheet.save(out[-1], quality=90)
    return out


def show(title: str, files: Sequence[Path], threads: int) -> None:
    print(f"\n{title}: {len(files)} pictures; pictures per second")
    many = f"{threads} threads"
    print(f"{'library':14}{'decoding':>11}{many:>11}{'reading':>11}{many:>11}  differing from Pillow's")
    found = decoders()
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(RUNS):
        for name, decoder in found.items():
            works = (decoder, lambda file, decoder=decoder: whole(decoder, file))
            for column, (work, n) in enumerate((work, n) for work in works for n in (1, threads)):
                rates.setdefault((name, column), []).append(rate(work, files, n))
    for name, decoder in found.items():
        columns = "".join(f"{statistics.median(rates[name, column]):11.1f}" for column in range(4))
        print(f"{name:14}{columns}  {differing(decoder, files)}")


def main() -> None:
    torch.set_num_threads(1)
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else os.cpu_count() or 1
    jpegs = [file for file in sorted(Path(sys.argv[1]).rglob("*")) if file.suffix.lower() in (".jpg", ".jpeg")]
    files = [file for file in jpegs if Image.open(file).mode == "RGB"][:N_SMALL]
    print(line(f"{RUNS} runs"))
    show("Original files", files, threads)
    with tempfile.TemporaryDirectory() as folder:
        show("12 megapixels", enlarged(files, Path(folder)), threads)


if __name__ == "__main__":
    main()
