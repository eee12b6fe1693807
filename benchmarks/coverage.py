"""Measure how often the 95 % interval of a test score contains the score on many other pictures.

    python benchmarks/coverage.py PHOTOS... --work WORK

For each folder and each of 100 random splits, a linear probe is fitted on 30 % of the pictures and tested on 10 %; the
other 60 % tell its score. The features are those that selection.py computes, in WORK/features. Pictures are drawn
without replacement, so the score on the other pictures is itself uncertain; the interval does not contain that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import machine
import numpy as np
from selection import Cell, features

from autotune.data.folder import list_folder
from autotune.training.metrics import METRICS, score, score_interval
from autotune.training.probe import fit_probe

BACKBONE, INVERSE_PENALTY = "efficientnet_lite0", 1e-2
SPLITS, TRAIN_SHARE, TEST_SHARE = 100, 0.3, 0.1


def coverage(rows: np.ndarray, classes: np.ndarray, metric: str) -> tuple[int, int]:
    """Return in how many random splits the interval contains the score, and the number of test pictures."""
    n, n_classes, inside = len(classes), int(classes.max()) + 1, 0
    first, second = round(TRAIN_SHARE * n), round((TRAIN_SHARE + TEST_SHARE) * n)
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(n)
        train, test, later = order[:first], order[first:second], order[second:]
        probe = fit_probe(n_classes, rows[train], classes[train], INVERSE_PENALTY)
        predicted = probe.logits(rows).argmax(1)
        low, high = score_interval(metric, classes[test], predicted[test], n_classes)
        inside += low <= score(metric, classes[later], predicted[later], n_classes) <= high
    return inside, second - first


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="+", help="folders of pictures")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), required=True, help="folder of the features")
    parser.add_argument("--metric", choices=METRICS, default="accuracy")
    parser.add_argument("--pixels", type=int, default=224)
    options = parser.parse_args()
    print(machine.line(f"{SPLITS} splits"))
    for photos in options.photos:
        files = sorted(list_folder(photos)[0], key=lambda one: one.path)
        found = features(
            Cell(photos, 0, [one.path for one in files], (), options.work, {}, 0), BACKBONE, options.pixels
        )
        names = sorted({one.label for one in files})
        rows = np.stack([found[one.path] for one in files])
        classes = np.array([names.index(one.label) for one in files])
        inside, n = coverage(rows, classes, options.metric)
        told = f"{inside} of {SPLITS} intervals contain the {options.metric}"
        print(f"{photos.name:10} {n:4} test pictures: {told}", flush=True)


if __name__ == "__main__":
    main()
