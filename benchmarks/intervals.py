"""Measure how often the 95 % intervals of balanced accuracy and macro F1 cover the true score.

    python benchmarks/intervals.py [--draws 400]

Predictions are drawn from known confusion matrices, so the true score is known. `bootstrap` resamples the pictures
within each class; it was the interval of earlier versions. Also printed: the mean width, in points.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import machine
import numpy as np
from numpy.typing import NDArray

from autotune.training.metrics import METRICS, find_metric, score, score_interval

RESAMPLES = 300
NAMES = [name for name in METRICS if name != "accuracy"]  # of which Wilson's interval is known
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """Pictures of each class, and the true recall of each."""

    sizes: tuple[int, ...]
    recalls: tuple[float, ...]

    @property
    def words(self) -> str:
        if len(set(self.sizes)) == 1:
            low, high = (f"{100 * share:.0f}" for share in (min(self.recalls), max(self.recalls)))
            return f"{len(self.sizes)} classes of {self.sizes[0]}, {low if low == high else f'{low} to {high}'} %"
        return f"{' + '.join(map(str, self.sizes))}, {' and '.join(f'{100 * share:g}' for share in self.recalls)} %"


CASES = (
    Case((3, 252), (0.99, 0.99)),
    Case((3, 252), (0.8, 0.98)),
    Case((9, 430), (0.97, 0.995)),
    Case((9, 430), (0.85, 0.98)),
    Case((4, 40, 400), (0.7, 0.9, 0.99)),
    Case((20,) * 2, (0.95,) * 2),
    Case((100,) * 2, (0.6,) * 2),
    Case((7,) * 5, (0.9,) * 5),
    Case((20,) * 10, (0.75,) * 10),
    Case((20,) * 10, (0.98,) * 10),
    Case((3,) * 21, (0.9,) * 21),
    Case((3,) * 21, tuple(np.linspace(0.6, 1, 21))),
    Case((5,) * 40, (0.97,) * 40),
    Case((3,) * 100, (0.99,) * 100),
)


def matrix(case: Case, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the probability of each prediction (columns) for each class (rows), (C, C). The errors are random."""
    n = len(case.sizes)
    errors = rng.dirichlet(np.full(n - 1, 0.7), n)
    return np.array(
        [np.insert(row * (1 - recall), place, recall)
         for place, (row, recall) in enumerate(zip(errors, case.recalls, strict=True))]
    )  # fmt: skip


def true_score(metric: str, case: Case, probabilities: NDArray[np.float64]) -> float:
    """Return the score of the expected counts."""
    if metric == "balanced_accuracy":
        return float(np.mean(case.recalls))
    counts = probabilities * np.array(case.sizes)[:, None]
    return float((2 * counts.diagonal() / (counts.sum(0) + counts.sum(1))).mean())


def bootstrap(metric: str, labels: Numbers, predictions: Numbers, n: int,
              rng: np.random.Generator) -> tuple[float, float]:  # fmt: skip
    """Return the 2.5 % and 97.5 % quantiles of the score on resampled pictures."""
    members = [np.flatnonzero(labels == label) for label in range(n)]
    scores = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([rng.choice(places, len(places)) for places in members])
        scores.append(score(metric, labels[chosen], predictions[chosen], n))
    low, high = np.quantile(scores, [0.025, 0.975])
    return float(low), float(high)


def measure(case: Case, draws: int, rng: np.random.Generator) -> str:
    probabilities, n = matrix(case, rng), len(case.sizes)
    labels = np.repeat(np.arange(n), case.sizes)
    found: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    for _ in range(draws):
        predictions = np.concatenate(
            [rng.choice(n, size, p=row) for size, row in zip(case.sizes, probabilities, strict=True)]
        )
        for metric in NAMES:
            true = true_score(metric, case, probabilities)
            intervals = {
                "autotune": score_interval(metric, labels, predictions, n),
                "bootstrap": bootstrap(metric, labels, predictions, n, rng),
            }
            for name, (low, high) in intervals.items():
                found.setdefault((metric, name), []).append((bool(low <= true <= high), float(high - low)))
    cells = [
        f"{100 * np.mean(rows, axis=0)[0]:6.1f} % ({100 * np.mean(rows, axis=0)[1]:4.1f})" for rows in found.values()
    ]
    return f"{case.words:38}" + "".join(f"{cell:>20}" for cell in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=400, help="of predictions, for each case")
    options = parser.parse_args()
    print(machine.line(f"{options.draws} draws for each case; share of draws that cover, in brackets the mean width"))
    heads = [
        f"{find_metric(metric).label.split()[0]}, {name}" for metric in NAMES for name in ("autotune", "bootstrap")
    ]
    print(f"{'pictures and true recalls of classes':38}" + "".join(f"{head:>20}" for head in heads))
    rng = np.random.default_rng(0)
    for case in CASES:
        print(measure(case, options.draws, rng), flush=True)


if __name__ == "__main__":
    main()
