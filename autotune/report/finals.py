"""The finals in a report: the finalists, and the errors on held-out pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import StudyError
from autotune.report import confusion
from autotune.report.confusion import Errors
from autotune.study.checks import recorded_split
from autotune.study.finals.held_out import held_out_of
from autotune.study.storage.record import Record
from autotune.study.storage.rows import Final, Finalist, TrialRow
from autotune.study.summary import Summary


@dataclass(frozen=True)
class FinalistRow:
    """A finalist. scores: by fold. words: its hyperparameters. n: pictures on which it is compared with the winner."""

    finalist: Finalist
    words: str
    scores: Mapping[int, float]
    n: int


@dataclass(frozen=True)
class HeldOutSection:
    """The predictions of the winner's networks on n held-out pictures, which are those of some parts of the split.

    errors: None if the predictions cannot be read, for the reason in problem.
    """

    parts: str
    n: int
    errors: Errors | None
    problem: str = ""


@dataclass(frozen=True)
class FinalsSection:
    """The final model and how it was chosen. folds: pictures in each fold that ranked the finalists.

    finalists: the winner first, empty without finals. has_shorter: whether some were not trained on all these folds.
    passed_over: too expensive for the finals. is_tie: another finalist has the winner's score. held_out: None without
    folds.
    """

    final: Final
    folds: Mapping[int, int]
    finalists: list[FinalistRow]
    has_shorter: bool
    passed_over: tuple[TrialRow, ...]
    is_tie: bool
    held_out: HeldOutSection | None


def finals_section(record: Record, folder: Path, summary: Summary, root: Path) -> FinalsSection | None:
    """Return the finals of a study, or None if it has no final model. folder: of the study; root: of the pictures."""
    final = summary.final
    if final is None:
        return None
    folds = {one.fold: one.n for finalist in final.finalists for one in finalist.folds}
    finalists = _finalists(final, summary)
    return FinalsSection(
        final=final,
        folds=dict(sorted(folds.items())),
        finalists=finalists,
        has_shorter=any(len(row.scores) < len(folds) for row in finalists),
        passed_over=summary.passed_over,
        is_tie=is_tie(final.finalists),
        held_out=_held_out(record, folder, final, root) if final.folds else None,
    )


def is_tie(finalists: Sequence[Finalist]) -> bool:
    """Return whether a finalist with as many folds has the winner's score. finalists: the winner first."""
    return any(one.mean == finalists[0].mean and len(one.folds) == len(finalists[0].folds) for one in finalists[1:])


def _finalists(final: Final, summary: Summary) -> list[FinalistRow]:
    trials = {row.number: row for row in summary.leaderboard}
    winners = {score.fold for one in final.finalists if one.won for score in one.folds}
    return [
        FinalistRow(
            finalist=one,
            words=summary.describe(trials[one.trial]),
            scores={score.fold: score.value for score in one.folds},
            n=sum(score.n for score in one.folds if score.fold in winners),
        )
        for one in final.finalists
    ]


def _held_out(record: Record, folder: Path, final: Final, root: Path) -> HeldOutSection:
    parts = "training and validation" if 0 in final.folds else "training"  # fold 0 is the validation set
    try:
        return HeldOutSection(parts, final.n, _held_out_errors(record, folder, final, root))
    except StudyError as error:
        return HeldOutSection(parts, final.n, None, error.problem)


def _held_out_errors(record: Record, folder: Path, final: Final, root: Path) -> Errors:
    """Raises StudyError if the manifest has changed, or if it or the predictions cannot be read."""
    from autotune.study.evaluate import score_logits  # imports Lightning, which other reports do not need

    split = recorded_split(record, folder)
    held = held_out_of(final, record, folder, split)
    assert held
    # The intervals of other metrics take seconds, and none is shown.
    scores = score_logits("accuracy", held.logits, held.pictures, split.classes, final.temperature or 1.0)
    return confusion.errors(scores, split.classes, root)
