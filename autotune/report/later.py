"""The report's section on later pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from autotune.report import confusion
from autotune.report.confusion import Errors
from autotune.study.storage.evaluations import Answered, ClassScore, Counted, Evaluation, LaterRow
from autotune.study.summary import Summary
from autotune.training.metrics import wilson_interval


@dataclass(frozen=True)
class LaterClass:
    """The recall of a class on later pictures, with its 95 % interval. test: its recall on the test set, if any."""

    name: str
    scores: ClassScore
    interval: tuple[float, float]
    test: float | None


@dataclass(frozen=True)
class LaterSection:
    """The latest evaluation on later pictures that has scores. classes: the largest fall first. rows: all evaluations,
    also of earlier models. answered: at the threshold of the bundle.

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
    answered: Answered | None


def later_section(summary: Summary, reliability: Markup | None, threshold: float) -> LaterSection | None:
    """Return the section, None if the model was not evaluated. reliability: the chart of `latest_scores`. threshold: of
    the bundle; 0 for none.
    """
    rows, classes, test = summary.later, summary.classes, summary.test
    if not rows:
        return None
    row = next((one for one in reversed(rows) if one.scores), rows[-1])
    scores = row.scores.evaluation if row.scores else None
    found = _classes(row)
    return LaterSection(
        row=row,
        rows=tuple(sorted((*rows, *summary.later_before), key=lambda one: one.id)),
        scores=scores,
        classes=found,
        right=sum(one.right for one in scores.per_class.values()) if scores else 0,
        same=test.of_classes(one.name for one in found) if test and scores and row.missing else None,
        errors=confusion.errors(scores, classes, Path(row.root)) if scores else None,
        reliability=reliability,
        answered=scores.answered(threshold) if scores and scores.confidence and threshold else None,
    )


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
