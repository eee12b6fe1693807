"""Measure the recall of near-duplicate detection with planted duplicates, and list all pairs found without them.

    python benchmarks/near_duplicates.py PHOTOS...

In each folder, at most 300 pictures drawn at random get a near-duplicate of each kind, which is added to all pictures
of the folder. A planted near-duplicate is found if it is paired with its original. Pairs found in the original folder
are listed for manual inspection. The time is that of the comparison only, for all pictures of the folder.
"""

import io
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from machine import line
from PIL import Image, ImageEnhance, ImageOps

from autotune.data.catalog import read_catalog
from autotune.data.near_duplicates import LEAST_SIDE, find_near_duplicates, thumbnail
from autotune.data.picture import read_picture

N_PLANTED = 300
Kind = Callable[[Image.Image, np.random.Generator], Image.Image]


def saved_again(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(50, 90)))
    return Image.open(file).convert("RGB")


def resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    scale = max(rng.uniform(0.6, 1.5), LEAST_SIDE / min(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Remove 2 % of the width and of the height, at random edges."""
    less = [max(1, round(0.02 * side)) for side in image.size]
    left, top = (int(rng.integers(0, each + 1)) for each in less)
    return image.crop((left, top, image.width - less[0] + left, image.height - less[1] + top))


def cropped_all_round(image: Image.Image, _: np.random.Generator) -> Image.Image:
    """Remove 2 % at each of the four edges."""
    x, y = (max(1, round(0.02 * side)) for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


def brightened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3))


def mirrored(image: Image.Image, _: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image)


def all_at_once(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for kind in (resized, cropped, brightened, mirrored, saved_again):
        image = kind(image, rng)
    return image


KINDS: dict[str, Kind] = {
    "saved again": saved_again,
    "resized": resized,
    "cropped 2 %": cropped,
    "2 % off each side": cropped_all_round,
    "brightened": brightened,
    "mirrored": mirrored,
    "all of these": all_at_once,
}


def found(thumbs: list[np.ndarray], planted: list[tuple[int, np.ndarray | None]]) -> int:
    """Return how many planted near-duplicates are paired with their originals."""
    added = [thumb for _, thumb in planted if thumb is not None]
    pairs = set(find_near_duplicates([*thumbs, *added]) or ())
    places = iter(range(len(thumbs), len(thumbs) + len(added)))
    return sum(thumb is not None and (original, next(places)) in pairs for original, thumb in planted)


def main() -> None:
    print(line(f"{N_PLANTED} pictures of each folder, or all"))
    print(f"{'pictures':14}{'n':>7}" + "".join(f"{kind:>19}" for kind in KINDS) + f"{'comparison, s':>15}")
    listed = []
    for folder in map(Path, sys.argv[1:]):
        catalog = read_catalog(folder)
        once = list({picture.digest: picture for picture in catalog.pictures}.values())
        with ThreadPoolExecutor() as pool:
            opened = list(pool.map(lambda p, root=folder: read_picture(root / p.path), once))
        made = [thumbnail(image) for image in opened]
        kept = [i for i, thumb in enumerate(made) if thumb is not None]
        thumbs = [thumb for thumb in made if thumb is not None]
        start = time.perf_counter()
        pairs = find_near_duplicates(thumbs) or []
        seconds = time.perf_counter() - start
        listed += [f"{folder.name}: {once[kept[i]].path} = {once[kept[j]].path}" for i, j in pairs]
        rng = np.random.default_rng(0)
        chosen = rng.permutation(len(kept))[:N_PLANTED]
        shares = []
        for kind in KINDS.values():
            planted = [(int(i), thumbnail(kind(opened[kept[i]], rng))) for i in chosen]
            shares.append(found(thumbs, planted) / len(planted))
        columns = "".join(f"{100 * share:17.1f} %" for share in shares)
        print(f"{folder.name:14}{len(thumbs):7}{columns}{seconds:15.2f}", flush=True)
    print("\nPairs found in the original folders:", *listed, sep="\n")


if __name__ == "__main__":
    main()
