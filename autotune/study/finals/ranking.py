"""Rank the finalists by the predictions of their networks on held-out pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autotune.data.picture import Picture
from autotune.data.split import Split
from autotune.data.visits import visits_of
from autotune.study.evaluate import class_numbers
from autotune.study.finals.held_out import HeldOut, folds_of, read_held_out
from autotune.study.storage.files import StudyFiles
from autotune.study.storage.rows import FAILED, Finalist, FoldRow, FoldScore
from autotune.training.calibration import fit_temperature
from autotune.training.metrics import (
    log_loss,
    paired_interval,
    predicted_classes,
    score,
    score_interval,
    visit_interval,
)

INTERVAL_ERRORS = 2 * 1.96  # standard errors in the width of a 95 % interval


class Ranking:
    """Scores and ranks the networks of the finals. Raises StudyError if predictions cannot be read."""

    def __init__(self, files: StudyFiles, split: Split, metric: str) -> None:
        self._files = files
        self._split = split
        self._metric = metric
        self._n_classes = len(split.classes)

    def scored(self, row: FoldRow) -> FoldRow:
        """Return a network with its score on the fold that it holds out."""
        held = self._held_out([row])
        return replace(row, n=len(held.pictures), value=self._value(held), log_loss=self._loss(held))

    def pooled(self, rows: Sequence[FoldRow]) -> tuple[int, float, float, float]:
        """Return the scores of a trial's networks on all their folds: n, metric, cross-entropy and temperature."""
        held = self._held_out(rows)
        return len(held.pictures), self._value(held), self._loss(held), fit_temperature(held.logits, self._labels(held))

    def finalists(self, rows: Sequence[FoldRow], trials: Iterable[int], folds: Sequence[int],
                  reference: int | None) -> tuple[Finalist, ...]:  # fmt: skip
        """Rank trials by their networks on some folds: those with more folds before the others, the winner first.

        The winner is the best, or the reference if the best leads by at most a standard error: among few pictures, the
        lead of the best of several is mostly chance. A finalist that failed on a fold is left out.
        """
        failed = {row.trial for row in rows if row.state == FAILED and row.fold in folds}
        done = {trial: [row for row in folds_of(rows, trial) if row.fold in folds] for trial in trials}
        own = {trial: networks for trial, networks in done.items() if networks and trial not in failed}
        order = self._order(own, reference)
        return tuple(self._finalist(trial, own, order[0], reference) for trial in order)

    def _order(self, networks: Mapping[int, Sequence[FoldRow]], reference: int | None) -> list[int]:
        """Return the numbers of the trials, the winner first. networks: by trial."""
        most = max((len(rows) for rows in networks.values()), default=0)
        compared = {trial: rows if len(rows) == most else rows[:1] for trial, rows in networks.items()}
        held = {trial: self._held_out(rows) for trial, rows in compared.items()}

        def rank(trial: int) -> tuple[float, ...]:
            return -len(compared[trial]), -self._value(held[trial]), self._loss(held[trial])

        order = sorted(networks, key=rank)
        if reference in held and len(compared[reference]) == most and self._is_close(held[order[0]], held[reference]):
            order.sort(key=lambda trial: trial != reference)
        return order

    def _finalist(
        self, trial: int, networks: Mapping[int, Sequence[FoldRow]], winner: int, reference: int | None
    ) -> Finalist:
        """Describe a finalist. It is compared with the winner on the folds that both have."""
        common = {row.fold for row in networks[trial]} & {row.fold for row in networks[winner]}
        own, best = (self._held_out([row for row in networks[one] if row.fold in common]) for one in (trial, winner))
        labels, predicted = self._labels(own).numpy(), predicted_classes(own.logits)
        is_winner = trial == winner
        return Finalist(
            trial=trial,
            folds=tuple(FoldScore(row.fold, row.n, row.value or 0.0) for row in networks[trial]),
            mean=self._value(own),
            interval=self._interval(labels, predicted, own.pictures),
            behind=None if is_winner else self._lead(best, own),
            won=is_winner,
            is_reference=trial == reference,
        )

    def _is_close(self, one: HeldOut, other: HeldOut) -> bool:
        """Return whether the lead of some networks over others, on the same pictures, is at most a standard error."""
        low, high = self._lead(one, other)
        return self._value(one) - self._value(other) <= (high - low) / INTERVAL_ERRORS

    def _lead(self, one: HeldOut, other: HeldOut) -> tuple[float, float]:
        """Return the 95 % interval of the lead of some networks over others, on the same pictures."""
        first, second = predicted_classes(one.logits), predicted_classes(other.logits)
        labels, visits = self._labels(one).numpy(), self._visits(one.pictures)
        return paired_interval(self._metric, labels, first, second, self._n_classes, visits)

    def _interval(self, labels: NDArray[np.int64], predicted: NDArray[np.int64],
                  pictures: Sequence[Picture]) -> tuple[float, float]:  # fmt: skip
        visits = self._visits(pictures)
        if visits and len(set(visits)) > 1:
            return visit_interval(self._metric, labels, predicted, self._n_classes, visits)
        return score_interval(self._metric, labels, predicted, self._n_classes)

    def _visits(self, pictures: Sequence[Picture]) -> list[str] | None:
        """Return the visit of each picture; None if none is known."""
        return visits_of(pictures) if self._split.visits.n else None

    def _held_out(self, rows: Sequence[FoldRow]) -> HeldOut:
        return read_held_out(self._files, self._split, rows)

    def _labels(self, held: HeldOut) -> Tensor:
        return class_numbers(held.pictures, self._split.classes)

    def _value(self, held: HeldOut) -> float:
        return score(self._metric, self._labels(held).numpy(), predicted_classes(held.logits), self._n_classes)

    def _loss(self, held: HeldOut) -> float:
        return log_loss(held.logits, self._labels(held))
