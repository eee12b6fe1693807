import numpy as np
import pytest

from autotune.data.picture import Picture
from autotune.report import confusion
from autotune.study.storage.evaluations import ClassScore


def test_matrix_of_many_classes_shows_those_with_the_most_errors() -> None:
    counts = np.diag(np.full(40, 5))
    counts[30, 3], counts[31, 39], counts[32, 33] = 4, 2, 1
    names = [f"class {i}" for i in range(40)]
    found = confusion.matrix(counts.tolist(), names, confusion.MOST_CLASSES)
    assert len(found.classes) == confusion.MOST_CLASSES
    assert {"class 3", "class 30", "class 31", "class 32", "class 33", "class 39"} <= set(found.classes)
    assert found.n_hidden == 15
    assert list(found.classes) == [name for name in names if name in found.classes]
    for row in found.rows:
        assert row.n_hidden + sum(cell.n for cell in row.cells) == row.n == counts[names.index(row.name)].sum()
    assert [(p.label, p.predicted, p.times, p.n) for p in confusion.pairs(counts.tolist(), names)] == [
        ("class 30", "class 3", 4, 9), ("class 31", "class 39", 2, 7), ("class 32", "class 33", 1, 6),
    ]  # fmt: skip


def test_classes_are_sorted_by_recall_with_their_pictures_counted() -> None:
    per_class = {
        "a": ClassScore(4, 4, 1.0, 1.0),
        "b": ClassScore(4, 1, 0.25, 1.0),
        "c": ClassScore(0, 0, 0.0, 0.0),
    }
    pictures = [Picture(f"b/{i}.png", "b", part, str(i), 8, "") for i, part in enumerate(("train", "train", "test"))]
    rows = confusion.class_rows(per_class, pictures)
    assert [row.name for row in rows] == ["c", "b", "a"]
    assert rows[1].pictures == {"train": 2, "validation": 0, "test": 1}
    assert rows[1].interval[0] < 0.25 < rows[1].interval[1]
    assert rows[0].interval == (0.0, 1.0)


def test_predictions_are_binned_by_confidence() -> None:
    found = confusion.bins([0.05, 0.95, 0.91, 1.0], [False, True, False, True])
    assert [(one.n, one.n_correct) for one in found] == [(1, 0), (3, 2)]
    assert found[1].confidence == pytest.approx((0.95 + 0.91 + 1.0) / 3)


def test_answered_predictions_are_those_that_reach_the_threshold() -> None:
    found = {one.threshold: one for one in confusion.answered([0.3, 0.9, 0.95, 0.7], [False, True, False, True])}
    assert [(found[at].n, found[at].n_correct) for at in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)] == [
        (3, 2), (3, 2), (2, 1), (2, 1), (1, 0), (0, 0),
    ]  # fmt: skip
    assert found[0.5].share == 0.75
    assert found[0.5].interval[0] < 2 / 3 < found[0.5].interval[1]
    assert found[0.99].interval == (0.0, 1.0)
