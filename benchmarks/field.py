r"""Measure what raises the accuracy on later pictures, beside what a study would have claimed.

    python benchmarks/field.py PHOTOS LATER --work WORK [--seeds 0,1,2] [--levers NAMES]
    python benchmarks/field.py --work WORK --report

PHOTOS: a folder of classes. LATER: pictures of some of these classes, taken on other days and in other places. Each
lever of levers.py is one network, trained on the pictures of PHOTOS that are not held out, and judged on the held-out
ones (`claimed`), on all of LATER (`later`), and on strong views of the held-out ones: the share of the answers that
stay the same (`stable`). A second network is trained without groups of look-alikes, and judged on these (`by scene`).

One half of the later pictures, by a hash, chooses the lever, and the other half reports what it is worth. The last
table tells whether a number that a search has could rank levers by their later accuracy: the rank correlation
(Spearman) over levers, mean of the seeds. Results are appended to WORK/results.jsonl, and only missing ones are made.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import machine
import numpy as np
from levers import LEVERS, PROBES, SIZES, Cell
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.stats import spearmanr
from selection import Results, Row, keep, read_rows
from visits import frozen_features, taken_again

from autotune.data.catalog import read_catalog
from autotune.data.picture import Picture, read_picture
from autotune.data.split import TEST, TRAIN, VALIDATION, Split, hash_position, split_catalog

CHOSEN = (
    "base", "depth 1", "depth 3", "head only, lr_high 0.01", "augment 0", "augment 1", "dropout 0.5", "mixup 0.2",
    "label smoothing 0.1", "near the start 0.1", "moving average 0.99", "probe penalty / 10", "epochs x 0.4",
    "lr_high 0.0003", "depth 4, lr_high 0.0003, new views", "depth 4, lr_high 0.0003", "mirror",
    "base, soup of folds and one of all", "depth 1, soup of folds and one of all",
    "near the start 0.1, soup of folds and one of all", "probe", "probe of four stages",
)  # fmt: skip
SCENE = 0.25  # mean cosine distance within a group of look-alikes
NUMBERS = ("claimed", "stable", "by scene")


def link(photos: Path, later: Path, split: Split, work: Path) -> Path:
    """Link all pictures into one folder, with strong views of the test pictures, and return it."""
    folder = work / "pictures"
    for picture in split.pictures:
        file = folder / picture.label / f"now--{Path(picture.path).name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_symlink():
            file.symlink_to((photos / picture.path).resolve())
        view = file.with_name(f"view--{file.name}.jpg")
        if picture.part == TEST and not view.exists():
            rng = np.random.default_rng(int(picture.digest[:8], 16))
            taken_again(read_picture(photos / picture.path), rng).save(view, quality=90)
    for inner in sorted(later.iterdir()):
        if inner.name in split.classes:
            for one in sorted(inner.iterdir()):
                file = folder / inner.name / f"later--{one.name}"
                if not file.is_symlink():
                    file.symlink_to(one.resolve())
    return folder


def scenes(features: NDArray[np.float32], labels: Sequence[str]) -> list[str]:
    """Return the group of look-alikes of each picture, within its class."""
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = [""] * len(labels)
    for label in sorted(set(labels)):
        own = [place for place, one in enumerate(labels) if one == label]
        numbers = fcluster(linkage(rows[own], "average", metric="cosine"), SCENE, "distance")
        for place, number in zip(own, numbers, strict=True):
            found[place] = f"{label} {number}"
    return found


def measure(options: argparse.Namespace) -> None:
    photos, later = options.photos
    catalog = read_catalog(photos)
    missing = {
        seed: [name for name in options.levers if name not in read_rows(options.work).get((photos.name, seed), {})]
        for seed in options.seeds
    }
    files = [photos / one.path for one in catalog.pictures]
    features = frozen_features(files)
    groups = scenes(np.stack([features[file] for file in files]), [one.label for one in catalog.pictures])
    for seed in options.seeds:
        split = split_catalog(catalog, seed)
        folder = link(photos, later, split, options.work / str(seed))
        test = {one.path for one in split.part(TEST)}
        held = held_scenes(catalog.pictures, groups, seed)
        all_pictures = read_catalog(folder, group_by="none").pictures
        names = {f"{one.label}/now--{Path(one.path).name}": one.path for one in catalog.pictures}
        by_picture = tuple(
            replace(one, part=TRAIN if one.path in names and names[one.path] not in test else VALIDATION)
            for one in all_pictures
        )
        by_scene = tuple(
            replace(one, part=VALIDATION if names[one.path] in held else TRAIN)
            for one in all_pictures
            if one.path in names
        )
        for name in missing[seed]:
            start = time.perf_counter()
            answers = answered(by_picture, folder, seed, name)
            scene = answered(by_scene, folder, seed, name)
            row = judged(answers, scene, {f"{one.split('/')[0]}/now--{Path(one).name}" for one in test})
            keep(options.work, photos.name, seed, name, {**row, "seconds": time.perf_counter() - start})
            print(
                f"{seed} {name}: {', '.join(f'{k} {100 * float(np.mean(v)):.1f}' for k, v in row.items())}", flush=True
            )


def held_scenes(pictures: Sequence[Picture], groups: Sequence[str], seed: int) -> set[str]:
    """Return the paths of about a fifth of each class, in whole groups of look-alikes. The largest group stays."""
    held: set[str] = set()
    for label in sorted({one.label for one in pictures}):
        own: dict[str, list[str]] = {}
        for one, group in zip(pictures, groups, strict=True):
            if one.label == label:
                own.setdefault(group, []).append(one.path)
        n = sum(map(len, own.values()))
        largest = max(own, key=lambda group: len(own[group]))
        taken: list[str] = []
        for group in sorted(own, key=lambda group: hash_position(group, str(seed))):
            if group != largest and len(taken) < n / 5:
                taken += own[group]
        held |= set(taken)
    return held


def answered(pictures: tuple[Picture, ...], folder: Path, seed: int, name: str) -> dict[str, str]:
    """Train a lever's network, and return its answers for the pictures that are not trained on, by path."""
    classes = tuple(sorted({one.label for one in pictures}))
    split = Split(classes, pictures, (), {})
    if name in PROBES:
        found = Cell(split, folder, seed, PROBES[name], SIZES[PROBES[name]]).probe_probabilities(name)
    else:
        lever = LEVERS[name]
        found = Cell(split, folder, seed, *lever.network).probabilities(lever)
    answers = [classes[i] for i in found.argmax(1).tolist()]
    return dict(zip((one.path for one in split.part(VALIDATION)), answers, strict=True))


def judged(answers: dict[str, str], scene: dict[str, str], test: set[str]) -> Row:
    def right(some: dict[str, str]) -> list[int]:
        return [int(answer == path.split("/")[0]) for path, answer in sorted(some.items())]

    views = {path: f"{Path(path).parent}/view--{Path(path).name}.jpg" for path in sorted(test)}
    later = {path: answer for path, answer in answers.items() if "/later--" in path}
    halves = {
        half: {p: a for p, a in later.items() if (hash_position(p, "half") < 0.5) == half} for half in (True, False)
    }
    return {
        "later": right(later), "chooses": right(halves[True]), "reports": right(halves[False]),
        "claimed": right({path: answers[path] for path in test}), "by scene": right(scene),
        "stable": [int(answers[path] == answers[view]) for path, view in views.items()],
    }  # fmt: skip


def report(rows: Results) -> None:
    levers = [name for name in CHOSEN if all(name in cell for cell in rows.values())]
    print(machine.line(f"{len(rows)} seeds, {len(next(iter(rows.values()))['base']['later'])} later pictures"))
    print(f"{'lever':40} claimed by scene stable   later   minus base, 95 % interval")
    for name in levers:
        means = [100 * mean(rows, name, number) for number in ("claimed", "by scene", "stable", "later")]
        print(f"{name:40}" + "".join(f"{one:8.1f}" for one in means) + f"   {difference(rows, name, 'later')}")
    best = max(levers, key=lambda name: mean(rows, name, "chooses"))
    worth = difference(rows, best, "reports")
    print(f"chosen by one half of the later pictures: {best}; on the other half, minus base {worth}")
    for number in NUMBERS:
        found = [
            spearmanr(*([float(np.mean(cell[name][what])) for name in levers] for what in (number, "later"))).statistic
            for cell in rows.values()
        ]
        print(f"rank correlation of {number} and later: {', '.join(f'{one:+.2f}' for one in found)}")


def mean(rows: Results, name: str, number: str) -> float:
    return float(np.mean([np.mean(cell[name][number]) for cell in rows.values()]))


def difference(rows: Results, name: str, number: str) -> str:
    """Format the mean difference to the base in points; the interval resamples pictures, all seeds of one together."""
    table = np.mean([np.subtract(cell[name][number], cell["base"][number]) for cell in rows.values()], axis=0)
    rng = np.random.default_rng(0)
    low, high = np.quantile([rng.choice(table, len(table)).mean() for _ in range(10_000)], (0.025, 0.975))
    return f"{100 * table.mean():+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=lambda text: Path(text).resolve(), nargs="*", help="PHOTOS LATER")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), required=True, help="folder of all results")
    parser.add_argument("--seeds", type=machine.numbers, default=(0, 1, 2))
    parser.add_argument("--levers", type=lambda text: text.split(";"), default=list(CHOSEN))
    parser.add_argument("--report", action="store_true", help="show the existing results only")
    options = parser.parse_args()
    if not options.report:
        measure(options)
    report(read_rows(options.work))


if __name__ == "__main__":
    main()
