"""The report's section on later pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from autotune.report import confusion
from autotune.report.confusion import Errors
from autotune.study.storage.evaluations import ClassScore, Evaluation, LaterRow
from autotune.training.metrics import wilson_interval


@dataclass(frozen=True)
class LaterClass:
    """The recall of a class on later pictures, with its 95 % interval. test: its recall on the test set, if any."""

    name: str
    scores: ClassScore
    interval: tuple[float, float]
    test: float | None


@dataclass(frozen=True)
class Counted:
    """Correct predictions among n pictures."""

    right: int
    n: int


@dataclass(frozen=True)
class LaterSection:
    """The latest evaluation on later pictures that has scores, and all evaluations. classes: the largest fall first.

    right: correct predictions. same: counts of the test pictures of the classes that have later pictures; None if all
    classes have some.
    """

    row: LaterRow
    rows: tuple[LaterRow, ...]
    scores: Evaluation | None
    classes: list[LaterClass]
    right: int
    same: Counted | None
    errors: Errors | None
    reliability: Markup | None


def later_section(
    rows: Sequence[LaterRow], classes: Sequence[str], test: Evaluation | None, reliability: Markup | None
) -> LaterSection | None:
    """Return the section, None if there was no evaluation. reliability: the chart of `latest_scores`."""
    if not rows:
        return None
    row = next((one for one in reversed(rows) if one.scores), rows[-1])
    scores = row.scores.evaluation if row.scores else None
    return LaterSection(
        row=row,
        rows=tuple(rows),
        scores=scores,
        classes=_classes(row),
        right=sum(one.right for one in scores.per_class.values()) if scores else 0,
        same=_same_classes(test, scores) if test and scores and row.missing else None,
        errors=confusion.errors(scores, classes, Path(row.root)) if scores else None,
        reliability=reliability,
    )


def latest_scores(rows: Sequence[LaterRow]) -> Evaluation | None:
    """Return the scores of the latest evaluation on later pictures that has some."""
    return next((one.scores.evaluation for one in reversed(rows) if one.scores), None)


def _same_classes(test: Evaluation, later: Evaluation) -> Counted | None:
    """Count the test pictures of the classes that have later pictures."""
    own = [test.per_class[name] for name, one in later.per_class.items() if one.n]
    n = sum(one.n for one in own)
    return Counted(sum(one.right for one in own), n) if n else None


def _classes(row: LaterRow) -> list[LaterClass]:
    if not row.scores:
        return []
    fall = row.scores.fall
    present = {name: one for name, one in row.scores.evaluation.per_class.items() if one.n}
    found = [
        LaterClass(name, one, wilson_interval(one.right, one.n), one.recall + fall[name] if name in fall else None)
        for name, one in present.items()
    ]
    return sorted(found, key=lambda one: (-fall.get(one.name, -1.0), one.name))
