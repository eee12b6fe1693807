r"""Measure whether visits are found, and whether the interval for new visits covers the accuracy on new visits.

    python benchmarks/visits.py PHOTOS... --work WORK [--splits 20] [--studies 2]

A visit is one photo of a folder, taken again six times by strong views: another part of it, another angle, light and
colour. For each split, some visits of each class are the user's, with capture times, file names or sub-folders that
show the visits, in turn; all other visits are new. The user's pictures are read and split as a study does, once by
visit and once by picture (`--group-by none`). Each time, scikit-learn's logistic regression on frozen features, with
the penalty of the study's probe, is fitted on the training and validation pictures; its interval on the test pictures
should cover its accuracy on the new visits. 95 % intervals should do so in 19 of 20 splits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import machine
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from autotune.backbones.registry import discover
from autotune.backbones.weights import find_weights, load_stages
from autotune.cache.features import BATCH, FrozenPrefix
from autotune.cache.pixels import read_square
from autotune.data.augment import Invariances
from autotune.data.catalog import read_catalog
from autotune.data.picture import Picture, read_picture
from autotune.data.split import TEST, Split, split_catalog
from autotune.training.metrics import visit_interval, wilson_interval
from autotune.training.probe import choose_probe, fit_probe

BACKBONE, PIXELS = "efficientnet_lite0", 224
VIEWS, USERS = 6, 20  # views of a visit; visits of each class that the user has, at most half of them
TRIALS = 20  # of a whole study
SIGNALS = ("time", "name", "folder")
EXIF, TAKEN = 0x8769, 0x9003

Features = Mapping[Path, NDArray[np.float32]]  # by file of the pool


@dataclass(frozen=True)
class Visit:
    """One photo and the files of its views, with capture times and without: (with, without)."""

    label: str
    name: str
    views: tuple[tuple[Path, Path], ...]


def taken_again(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a strong view: turned, cut, and in another light."""
    image = image.rotate(rng.uniform(-25, 25), Image.Resampling.BICUBIC)
    x, y = (round(0.12 * side) for side in image.size)
    image = image.crop((x, y, image.width - x, image.height - y))  # without most of the black corners
    share = rng.uniform(0.6, 0.85)
    width, height = (round(share * side) for side in image.size)
    left, top = int(rng.integers(0, image.width - width + 1)), int(rng.integers(0, image.height - height + 1))
    image = image.crop((left, top, left + width, top + height))
    for kind in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast):
        image = kind(image).enhance(rng.uniform(0.6, 1.4))
    return image


def write_pool(photos: Path, folder: Path) -> list[Visit]:
    """Write the views of every photo, once with a capture time, a day apart for each visit, and once without."""
    rng = np.random.default_rng(0)
    start, found = datetime(2024, 1, 1, 12), []
    for number, picture in enumerate(read_catalog(photos, group_by="none").pictures):
        image = read_picture(photos / picture.path)
        views = []
        for view in range(VIEWS):
            again = taken_again(image, rng)
            files = tuple(folder / kind / f"{number:05d}-{view}.jpg" for kind in ("timed", "plain"))
            exif = Image.Exif()
            time = start + timedelta(days=number, minutes=view)
            exif[EXIF] = {TAKEN: time.strftime("%Y:%m:%d %H:%M:%S")}
            for file, data in zip(files, (exif, Image.Exif()), strict=True):
                file.parent.mkdir(parents=True, exist_ok=True)
                again.save(file, quality=90, exif=data)
            views.append((files[0], files[1]))
        found.append(Visit(picture.label, f"{number:05d}", tuple(views)))
    return found


def frozen_features(files: Sequence[Path]) -> Features:
    entry = discover().find(BACKBONE)
    network = FrozenPrefix(load_stages(entry, find_weights(entry)), entry.traits, Invariances())
    found: dict[Path, NDArray[np.float32]] = {}
    for first in range(0, len(files), BATCH):
        batch = files[first : first + BATCH]
        squares = np.stack([read_square(file, PIXELS, entry.traits.interpolation) for file in batch])
        found.update(zip(batch, network([torch.from_numpy(squares)]).numpy(), strict=True))
    return found


def link(visits: Sequence[Visit], signal: str, folder: Path) -> dict[str, tuple[str, Path]]:
    """Link the pictures of visits so that a signal shows them. Return the visit and the plain file by path."""
    shutil.rmtree(folder, ignore_errors=True)
    found = {}
    counter: dict[str, int] = defaultdict(int)
    for visit in visits:
        for view, (timed, plain) in enumerate(visit.views):
            counter[visit.label] += 1
            name = f"IMG_{counter[visit.label]:04d}.jpg"
            inner = {"time": name, "name": f"burst_{visit.name}_{view}.jpg", "folder": f"visit {visit.name}/{name}"}
            path = folder / visit.label / inner[signal]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to((timed if signal == "time" else plain).resolve())
            found[path.relative_to(folder).as_posix()] = visit.name, plain
    return found


def check_visits(pictures: Sequence[Picture], truth: Mapping[str, tuple[str, Path]]) -> bool:
    """Return whether the groups are the visits."""
    groups: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        groups[picture.group].add(truth[picture.path][0])
    return (
        "" not in groups
        and all(len(of) == 1 for of in groups.values())
        and len(groups) == len(set.union(*groups.values()))
    )


def claim(split: Split, truth: Mapping[str, tuple[str, Path]], features: Features, new: Sequence[Visit],
          by_visit: bool) -> tuple[float, tuple[float, float], float]:  # fmt: skip
    """Return the test accuracy of a head on frozen features, its interval, and its accuracy on new visits."""
    numbers = {name: number for number, name in enumerate(split.classes)}

    def rows(part: Sequence[Picture]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return (
            np.stack([features[truth[picture.path][1]] for picture in part]),
            np.array([numbers[picture.label] for picture in part]),
        )

    test = split.part(TEST)
    train, validation = rows(split.part("train")), rows(split.part("validation"))
    chosen, _ = choose_probe("accuracy", len(numbers), *train, *validation)
    assert chosen.inverse_penalty is not None
    whole = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
    head = fit_probe(len(numbers), *whole, chosen.inverse_penalty)
    x, y = rows(test)
    predicted = head.logits(x).argmax(1)
    right = int((predicted == y).sum())
    if by_visit:
        interval = visit_interval("accuracy", y, predicted, len(numbers), [picture.group for picture in test])
    else:
        interval = wilson_interval(right, len(y))
    later = np.stack([features[plain] for visit in new for _, plain in visit.views])
    labels = np.array([numbers[visit.label] for visit in new for _ in visit.views])
    return right / len(y), interval, float((head.logits(later).argmax(1) == labels).mean())


@dataclass(frozen=True)
class Draw:
    """The visits of one split. truth: the visit and the plain file of each of the user's pictures, by path."""

    folder: Path
    truth: Mapping[str, tuple[str, Path]]
    new: Sequence[Visit]


def draw(pool: Sequence[Visit], seed: int, folder: Path) -> Draw:
    """Draw the user's visits of each class, and link their pictures."""
    rng = np.random.default_rng(seed)
    by_class: dict[str, list[Visit]] = defaultdict(list)
    for visit in pool:
        by_class[visit.label].append(visit)
    own: list[Visit] = []
    new: list[Visit] = []
    for visits in by_class.values():
        order = [visits[i] for i in rng.permutation(len(visits))]
        n = min(USERS, len(order) // 2)
        own += order[:n]
        new += order[n:]
    return Draw(folder, link(own, SIGNALS[seed % len(SIGNALS)], folder), new)


def measure(photos: Path, n_splits: int, n_studies: int, work: Path) -> None:
    pool = write_pool(photos, work / "pool")
    features = frozen_features([plain for visit in pool for _, plain in visit.views])
    n_found = n_pairs = n_pictures = 0
    rows: dict[bool, list[tuple[float, float, float, float]]] = {True: [], False: []}
    for seed in range(n_splits):
        one = draw(pool, seed, work / "user")
        for by_visit, some in rows.items():
            catalog = read_catalog(one.folder, group_by="auto" if by_visit else "none")
            if by_visit:
                n_found += check_visits(catalog.pictures, one.truth)
                n_pairs += len(catalog.near or ())
                n_pictures += len(catalog.pictures)
            accuracy, interval, later = claim(split_catalog(catalog, seed), one.truth, features, one.new, by_visit)
            some.append((accuracy, *interval, later))
    print(machine.line(f"{n_splits} splits"))
    print(f"{photos.name}: {len(one.truth) // VIEWS} visits of {VIEWS} pictures are the user's, {len(one.new)} are new")
    print(f"visits found exactly: {n_found} of {n_splits} (capture times, names and sub-folders in turn)")
    print(f"pairs of near-duplicates found by their pixels: {n_pairs} among {n_pictures} pictures of all splits")
    for by_visit, some in rows.items():
        table = np.array(some)
        n_covered = int(((table[:, 1] <= table[:, 3]) & (table[:, 3] <= table[:, 2])).sum())
        test, low, high, later = 100 * table.mean(0)
        print(
            f"split by {'visit' if by_visit else 'picture'}: test {test:.1f} %, mean interval {low:.1f} to "
            f"{high:.1f} %, on new visits {later:.1f} %; covered in {n_covered} of {n_splits}"
        )
    for seed in range(n_studies):
        print(study(draw(pool, seed, work / f"user-{seed}"), seed, work / f"study-{seed}"), flush=True)


def study(one: Draw, seed: int, place: Path) -> str:
    """Run a whole study on the user's pictures, evaluate it on the new visits, and describe both."""
    new = place / "new"
    shutil.rmtree(place, ignore_errors=True)
    for visit in one.new:
        for _, plain in visit.views:
            (new / visit.label).mkdir(parents=True, exist_ok=True)
            (new / visit.label / f"burst_{visit.name}_{plain.name}").symlink_to(plain.resolve())
    machine.search(place, place / "cache", one.folder, "--study", "s", "--trials", str(TRIALS), "--seed", str(seed))
    words = [sys.executable, "-m", "autotune", "evaluate", "s", "--on", str(new), "--json"]
    around = {**os.environ, "AUTOTUNE_CACHE": str(place / "cache")}
    later = json.loads(subprocess.run(words, cwd=place, env=around, capture_output=True, text=True, check=True).stdout)
    words = [sys.executable, "-m", "autotune", "status", "s", "--json"]
    test = json.loads(subprocess.run(words, cwd=place, capture_output=True, text=True, check=True).stdout)["test"]
    low, high = test["interval"]
    value = later["scores"]["evaluation"]["accuracy"]
    return (
        f"whole study {seed}, {SIGNALS[seed % len(SIGNALS)]}, {TRIALS} trials: test {100 * test['accuracy']:.1f} % "
        f"({100 * low:.1f} to {100 * high:.1f} %, {test['n']} pictures in {test['n_visits']} visits), on new visits "
        f"{100 * value:.1f} %: {'covered' if low <= value <= high else 'NOT covered'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+", help="folders of pictures")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--studies", type=int, default=0, help="whole studies to run on the first splits")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), required=True, help="folder of all results")
    options = parser.parse_args()
    for photos in options.photos:
        measure(photos, options.splits, options.studies, options.work / photos.name)


if __name__ == "__main__":
    main()
