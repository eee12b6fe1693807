"""The confusion matrix of the test set, scores by class, and confidence against accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autotune.data.picture import Picture
from autotune.data.split import PARTS, TRAIN
from autotune.study.rows import ClassScore

MOST_CLASSES = 25  # that a table of all against all shows
MOST_PAIRS = 10
N_BINS = 10


@dataclass(frozen=True)
class Cell:
    """n test pictures of one class that were answered with another. share: of the class's pictures."""

    n: int
    share: float
    answer: str
    is_right: bool


@dataclass(frozen=True)
class MatrixRow:
    name: str
    n: int
    cells: tuple[Cell, ...]
    elsewhere: int


@dataclass(frozen=True)
class Matrix:
    """True classes in rows, answers in columns: all classes, or those most involved in mistakes.

    n_left_out: classes without a row; elsewhere: a row's answers that have no column.
    """

    classes: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    n_left_out: int


@dataclass(frozen=True)
class Pair:
    """One class taken for another: so many of its n test pictures."""

    label: str
    answer: str
    times: int
    n: int


@dataclass(frozen=True)
class ClassRow:
    """One class: its pictures by part, and how many of its test pictures were named correctly, with an interval."""

    name: str
    pictures: Mapping[str, int]
    n: int
    right: int
    recall: float
    interval: tuple[float, float]
    precision: float


@dataclass(frozen=True)
class Bin:
    """Answers of about one confidence, and how often they were right, with an interval."""

    confidence: float
    n: int
    right: int
    interval: tuple[float, float]


def matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Matrix:
    """counts: rows are true classes, columns answers."""
    whole = np.array(counts)
    wrong = whole.sum(0) + whole.sum(1) - 2 * whole.diagonal()
    chosen = sorted(sorted(range(len(classes)), key=lambda i: (-wrong[i], i))[:MOST_CLASSES])
    rows = []
    for i in chosen:
        n = int(whole[i].sum())
        cells = tuple(Cell(int(whole[i, j]), whole[i, j] / n if n else 0.0, classes[j], i == j) for j in chosen)
        rows.append(MatrixRow(classes[i], n, cells, n - sum(cell.n for cell in cells)))
    return Matrix(tuple(classes[i] for i in chosen), tuple(rows), len(classes) - len(chosen))


def pairs(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> list[Pair]:
    """Every class that was taken for another, the most frequent first."""
    whole = np.array(counts)
    found = [
        Pair(classes[i], classes[j], int(whole[i, j]), int(whole[i].sum()))
        for i, j in np.argwhere(whole).tolist()
        if i != j
    ]
    return sorted(found, key=lambda pair: (-pair.times, -pair.times / pair.n, pair.label, pair.answer))


def class_rows(per_class: Mapping[str, ClassScore], pictures: Sequence[Picture]) -> list[ClassRow]:
    """Every class, the weakest first; between equals the one with fewer training pictures."""
    from autotune.training.metrics import wilson_interval

    counts = Counter((p.label, p.part) for p in pictures)
    rows = [
        ClassRow(
            name, {part: counts[name, part] for part in PARTS}, one.n, one.right, one.recall,
            wilson_interval(one.right, one.n) if one.n else (0.0, 1.0), one.precision,
        )
        for name, one in per_class.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (row.recall, row.pictures[TRAIN], row.name))


def bins(confidence: Sequence[float], right: Sequence[bool]) -> list[Bin]:
    """The answers by how sure they were, in ten bins of equal width; those that hold none are left out."""
    from autotune.training.metrics import wilson_interval

    sure, correct = np.array(confidence), np.array(right)
    places = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
    found = []
    for place in np.unique(places):
        own = places == place
        n, n_right = int(own.sum()), int(correct[own].sum())
        found.append(Bin(float(sure[own].mean()), n, n_right, wilson_interval(n_right, n)))
    return found
