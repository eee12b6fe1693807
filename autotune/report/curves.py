"""The learning curves in a report, and why their trials ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from autotune.report import charts
from autotune.study.storage.record import Record
from autotune.study.storage.rows import COMPLETE, TrialRow
from autotune.study.summary import Summary
from autotune.text import percent, plural
from autotune.training.gap import best_index, first_stop
from autotune.training.outcome import GAP, Epoch
from autotune.training.params import Params

N_CURVES = 4
ENDS = {
    "done": "completed all epochs",
    "gap": "stopped by the gap between training and validation",
    "pruned": "pruned: other trials were better at the same epoch",
    "timeout": "timed out: the study's time limit was reached",
    "diverged": "diverged: the validation loss was not a number, or at least 1,000,000",
}


@dataclass(frozen=True)
class TrialCurve:
    """One of the best trials, or the recipe. ended: the reason why it stopped, in words."""

    number: int
    title: str
    value: float
    words: str
    ended: str
    best_epoch: int
    epochs: int
    plot: Markup


def trial_curves(record: Record, summary: Summary, metric: str) -> list[TrialCurve]:
    """Return the curves of the winner and of the best other trials, all on one scale that contains every value."""
    complete = [row for row in summary.leaderboard if row.state == COMPLETE]
    order = sorted(complete, key=lambda row: (row.number != summary.winner.number, not row.params.is_recipe))
    best = order[:N_CURVES]  # the others keep their order
    found = [(row, record.curve(row.number)) for row in best]
    found = [(row, epochs) for row, epochs in found if epochs]
    if not found:
        return []
    room = charts.axis_range(
        [value for _, epochs in found for epoch in epochs for value in (epoch.train, epoch.validation)], whole=True
    )
    longest = max(len(epochs) for _, epochs in found)
    curves = []
    for row, epochs in found:
        train, validation = [epoch.train for epoch in epochs], [epoch.validation for epoch in epochs]
        best_epoch, value = row.best_epoch or 0, row.value or 0.0
        label = (
            f"trial {row.number}, {metric} by epoch: last training value {percent(train[-1])}, last validation value "
            f"{percent(validation[-1])}, best validation value {percent(value)} in epoch {best_epoch}"
        )
        plot = charts.curve(f"curve-{row.number}", train, validation, best_epoch, longest, room, label)
        words, ended = summary.describe(row), why_ended(row, epochs, record.facts().settings)
        curves.append(TrialCurve(row.number, row.title, value, words, ended, best_epoch, row.epochs or 0, plot))
    return curves


def why_ended(row: TrialRow, epochs: Sequence[Epoch], settings: Mapping[str, Any]) -> str:
    """Say why a trial ended; if the gap stopped it, with the numbers."""
    if row.ended != GAP:
        return ENDS.get(row.ended, row.ended) + _gap_stops(row.params, epochs, settings)
    limit = settings["gap"]
    gap, n_since = epochs[-1].gap, len(epochs) - 1 - best_index(epochs)
    size = f"{100 * gap:.1f} percentage points, " + ("over the limit of" if gap > limit else "growing, the limit is")
    return (
        f"stopped by the gap between training and validation ({size} {100 * limit:g}), after "
        f"{plural(n_since, 'epoch')} without a better one"
    )


def _gap_stops(recipe: Params, epochs: Sequence[Epoch], settings: Mapping[str, Any]) -> str:
    """Say where the gap would have stopped the phases of a recipe, which it does not stop."""
    stops, start = [], 0
    for number, phase in enumerate(recipe.phases, start=1):
        own = epochs[start : start + phase.epochs]
        start += phase.epochs
        if n := first_stop(own, settings["patience"], phase.cycle_epochs, settings["gap"]):
            stops.append(f"phase {number} after {n} of its {plural(phase.epochs, 'epoch')}")
    return f"; in a trial, the gap would have stopped {' and '.join(stops)}" if stops else ""
