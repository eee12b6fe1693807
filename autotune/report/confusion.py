"""The confusion matrix and the mistakes of predictions, scores by class, and accuracy by confidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotune.data.picture import Picture
from autotune.data.split import PARTS, TRAIN
from autotune.report.thumbnails import Thumbnail, thumbnail
from autotune.study.storage.evaluations import ClassScore, Evaluation

MOST_CLASSES = 25  # rows of the confusion matrix
MOST_ON_PHONE = 7  # rows that fit the width of a phone
THRESHOLDS = 0.5, 0.7, 0.8, 0.9, 0.95, 0.99
N_MISTAKES = 24
N_BINS = 10


@dataclass(frozen=True)
class Cell:
    """Pictures of one class predicted as one class. share: of all pictures of the class."""

    n: int
    share: float
    predicted: str
    is_correct: bool


@dataclass(frozen=True)
class MatrixRow:
    name: str
    n: int
    cells: tuple[Cell, ...]
    n_hidden: int


@dataclass(frozen=True)
class Matrix:
    """Labels in rows, predicted labels in columns: all classes, or those with the most errors.

    n_hidden: number of classes without a row; in a row, number of predictions without a column.
    """

    classes: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    n_hidden: int


@dataclass(frozen=True)
class Pair:
    """A class misclassified as another. times: how many of its n pictures."""

    label: str
    predicted: str
    times: int
    n: int


@dataclass(frozen=True)
class ShownMistake:
    picture: Thumbnail
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Errors:
    """The errors among the predictions of n pictures. mistakes: the most confident of all n_mistakes.

    narrow: the matrix for a phone.
    """

    n: int
    matrix: Matrix
    narrow: Matrix
    pairs: list[Pair]
    mistakes: list[ShownMistake]
    n_mistakes: int


@dataclass(frozen=True)
class ClassRow:
    """The scores of a class. pictures: number by part. right: correct predictions among its n test pictures."""

    name: str
    pictures: Mapping[str, int]
    n: int
    right: int
    recall: float
    interval: tuple[float, float]
    precision: float


@dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence. interval: 95 % interval of the share that is correct."""

    confidence: float
    n: int
    n_correct: int
    interval: tuple[float, float]


@dataclass(frozen=True)
class Answered:
    """The n predictions whose confidence reaches a threshold, and how many of them are correct.

    share: of all predictions. interval: 95 % interval of the share that is correct.
    """

    threshold: float
    n: int
    share: float
    n_correct: int
    interval: tuple[float, float]


def errors(scores: Evaluation, classes: Sequence[str], root: Path) -> Errors:
    """Return the errors of an evaluation, with thumbnails of the most confident mistakes. root: of the pictures."""
    return Errors(
        n=scores.n,
        matrix=matrix(scores.confusion, classes, MOST_CLASSES),
        narrow=matrix(scores.confusion, classes, MOST_ON_PHONE),
        pairs=pairs(scores.confusion, classes),
        mistakes=[
            ShownMistake(thumbnail(root, one.path), one.label, one.answer, one.probability)
            for one in scores.mistakes[:N_MISTAKES]
        ],
        n_mistakes=sum(row.n - row.right for row in scores.per_class.values()),
    )


def matrix(counts: Sequence[Sequence[int]], classes: Sequence[str], most: int) -> Matrix:
    """Return the confusion matrix. counts: labels in rows, predicted labels in columns. most: classes shown."""
    whole = np.array(counts)
    errors = whole.sum(0) + whole.sum(1) - 2 * whole.diagonal()
    chosen = sorted(sorted(range(len(classes)), key=lambda i: (-errors[i], i))[:most])
    rows = []
    for i in chosen:
        n = int(whole[i].sum())
        cells = tuple(Cell(int(whole[i, j]), whole[i, j] / n if n else 0.0, classes[j], i == j) for j in chosen)
        rows.append(MatrixRow(classes[i], n, cells, n - sum(cell.n for cell in cells)))
    return Matrix(tuple(classes[i] for i in chosen), tuple(rows), len(classes) - len(chosen))


def pairs(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> list[Pair]:
    """Return all pairs of a label and an incorrect prediction, most frequent first."""
    whole = np.array(counts)
    found = [
        Pair(classes[i], classes[j], int(whole[i, j]), int(whole[i].sum()))
        for i, j in np.argwhere(whole).tolist()
        if i != j
    ]
    return sorted(found, key=lambda pair: (-pair.times, -pair.times / pair.n, pair.label, pair.predicted))


def class_rows(per_class: Mapping[str, ClassScore], pictures: Sequence[Picture]) -> list[ClassRow]:
    """Return all classes, sorted by recall, then by the number of training pictures."""
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


def bins(confidence: Sequence[float], correct: Sequence[bool]) -> list[Bin]:
    """Group predictions by confidence into ten bins of equal width, without the empty ones."""
    from autotune.training.metrics import wilson_interval

    sure, is_correct = np.array(confidence), np.array(correct)
    places = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
    found = []
    for place in np.unique(places):
        own = places == place
        n, n_correct = int(own.sum()), int(is_correct[own].sum())
        found.append(Bin(float(sure[own].mean()), n, n_correct, wilson_interval(n_correct, n)))
    return found


def answered(confidence: Sequence[float], correct: Sequence[bool]) -> list[Answered]:
    """Return what is answered, and how well, at several thresholds of the confidence."""
    from autotune.training.metrics import wilson_interval

    sure, is_correct = np.array(confidence), np.array(correct)
    found = []
    for threshold in THRESHOLDS:
        own = sure >= threshold
        n, n_correct = int(own.sum()), int(is_correct[own].sum())
        interval = wilson_interval(n_correct, n) if n else (0.0, 1.0)
        found.append(Answered(threshold, n, n / len(sure), n_correct, interval))
    return found
