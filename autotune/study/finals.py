"""Finals: the best trials are trained again on other folds of the pool, and the winner becomes the final model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from autotune.data.folds import class_gaps
from autotune.engines.base import Died, Engine, Failed, FoldTask, SoupTask, Task
from autotune.search.cost import FINALS_SHARE, expected_shares, picture_operations
from autotune.search.plan import Plan
from autotune.study.checkpoints import Checkpoints
from autotune.study.driver import run_tasks
from autotune.study.evaluate import class_numbers
from autotune.study.held_out import HeldOut, folds_of, read_held_out
from autotune.study.limits import TimeLimits
from autotune.study.listener import StudyListener
from autotune.study.record import Record
from autotune.study.rows import COMPLETE, FAILED, REFIT, SOUP, TRIAL, Final, Finalist, FoldRow, FoldScore, TrialRow
from autotune.text import in_parts, percent, plural
from autotune.training.calibration import fit_temperature
from autotune.training.context import WHOLE_POOL, TrialContext
from autotune.training.fold import fold_epochs
from autotune.training.metrics import log_loss, paired_interval, predicted_classes, score, score_interval
from autotune.training.outcome import DONE, TIMEOUT, FoldOutcome, SoupOutcome

# Finalists of the first round, which is one fold, and of the second, which is all folds except the searched one.
RACES = ((4, 2), (3, 2), (2, 2), (2, 1), (1, 1))
SEARCHED = 0  # the fold that chose the finalists: not used to rank them
INTERVAL_ERRORS = 2 * 1.96  # standard errors in the width of a 95 % interval
MOST_DIVERGENCE = 0.15  # nats; between a soup and the mean probability of its networks
MOST_CHANGED = 0.02  # share of the predictions


class Finals:
    """The finals of one study.

    warm_starts: numbers of trials whose hyperparameters are known to work; the best of them with unfrozen stages is the
    reference, which loses only to a finalist that is better by more than a standard error. After the deadline of the
    limits, no network is trained.
    """

    def __init__(self, engine: Engine, record: Record, checkpoints: Checkpoints, plan: Plan, context: TrialContext,
                 listener: StudyListener, warm_starts: Collection[int], limits: TimeLimits) -> None:  # fmt: skip
        self._engine = engine
        self._record = record
        self._checkpoints = checkpoints
        self._plan = plan
        self._context = context
        self._listener = listener
        self._warm_starts = warm_starts
        self._limits = limits
        self._n_folds = max(context.folds) + 1
        self._n_classes = context.classes
        self._operations = picture_operations(plan.selection, plan.cuts)
        self._setting = plan.settings.final
        self._is_cut_short = False  # by the deadline

    def run(self) -> None:
        """Train what is missing, choose the winner and record the final model. Without a complete trial, do nothing."""
        trials = [row for row in self._record.trials() if row.state == COMPLETE]
        if trials:
            final = replace(self._final(trials), is_complete=not self._is_cut_short)
            self._record.keep_final(final)
            self._listener.say(f"Final model: {final.reason}.")

    def _final(self, trials: Sequence[TrialRow]) -> Final:
        if self._setting == TRIAL:
            return self._best_trial(trials[0], f"trial {trials[0].number}, the best, as set by `final`")
        first, n_second = self._race(trials)
        if not first:
            self._listener.say("No finals: they would take more than a third of the study's work.")
            return self._refit(trials[0], (), "refitted on all pictures except the test set")
        finalists = self._run_race(first, n_second)
        winner = next((row for one in finalists if one.won for row in trials if row.number == one.trial), None)
        if winner is None:
            why = "the time limit left no time for finals" if self._is_cut_short else "every finalist failed"
            return self._best_trial(trials[0], f"trial {trials[0].number}, the best, because {why}")
        if self._setting == SOUP and not self._context.is_from_scratch(winner.params.backbone):
            return self._soup(winner, finalists)
        return self._refit(winner, finalists, "refitted on all pictures except the test set")

    def _race(self, trials: Sequence[TrialRow]) -> tuple[list[TrialRow], int]:
        """Return the finalists, and how many of them reach the second round, as far as the work allows.

        The reference is the first, then the best trials. A trial that is too dear even alone is passed over.
        """
        most = FINALS_SHARE * (self._cache_work() + sum(self._trial_work(row) for row in self._record.trials()))
        able = [row for row in trials if self._race_work([row], 1) <= most]
        reference = self._reference(able)
        able.sort(key=lambda row: row.number != reference)  # stable: the others stay in order
        for first, second in RACES:
            if first <= len(able) and self._race_work(able[:first], second) <= most:
                return able[:first], second
        return [], 0

    def _reference(self, trials: Iterable[TrialRow]) -> int | None:
        """Return the number of the best warm start trial with unfrozen stages, or None. trials: best first."""
        known = (row for row in trials if row.number in self._warm_starts)
        return next((row.number for row in known if self._context.starts_from_probe(row.params)), None)

    def _race_work(self, finalists: Sequence[TrialRow], n_second: int) -> float:
        """Count the operations of a race and of the final model, if the dearest finalists reach the second round."""
        costs = sorted((self._fold_work(row) for row in finalists), reverse=True)
        return sum(costs) + sum(costs[:n_second]) * (self._n_folds - 2) + costs[0]

    def _cache_work(self) -> float:
        """Count the operations of filling the feature cache."""
        shares = expected_shares(self._plan.selection, self._plan.settings, self._plan.split, n_trials=0)
        return sum(
            sum(profile.operations) * shares[one.backbone.name, profile.pixels].n_rows
            for one in self._plan.selection.candidates
            for profile in one.profiles
            if one.cuts
        )

    def _trial_work(self, row: TrialRow) -> float:
        return self._work(row, (row.epochs or 0) * len(self._context.train))

    def _fold_work(self, row: TrialRow) -> float:
        pool, n = len(self._context.pool), self._n_folds
        return self._work(row, self._epochs(row) * pool * (n - 1) / n)

    def _work(self, row: TrialRow, pictures: float) -> float:
        return pictures * self._operations[row.params.backbone, row.params.pixels, row.params.depth]

    def _epochs(self, row: TrialRow) -> int:
        context = self._context
        return fold_epochs(row.params.cycle, row.best_epoch or 1, context.cycle_epochs, context.epochs)

    def _run_race(self, first: Sequence[TrialRow], n_second: int) -> tuple[Finalist, ...]:
        """Train the finalists on other folds than the searched one, and rank them. first: the reference first."""
        if gaps := class_gaps(self._plan.split):
            some = ", ".join(gaps[:3]) + (", ..." if len(gaps) > 3 else "")
            self._listener.say(f"Finals: {plural(len(gaps), 'class')} with too few pictures for every fold: {some}.")
        first_fold = SEARCHED + 1
        self._train(first, [first_fold])
        ranked = [one.trial for one in self._ranked(first, [first_fold])]
        if n_second > 1:
            ranked.sort(key=lambda number: number != self._reference(first))
        second = [row for row in first if row.number in ranked[:n_second]]
        folds = range(first_fold, self._n_folds)
        self._train(second, folds)
        return self._ranked(first, folds)

    def _train(self, trials: Iterable[TrialRow], folds: Iterable[int]) -> None:
        """Train the missing networks of some trials on some folds, and record them."""
        known = {(row.trial, row.fold) for row in self._record.folds()}
        folds = list(folds)
        todo = [
            FoldTask(row.number, row.params, fold, self._epochs(row))
            for row in trials
            for fold in folds
            if (row.number, fold) not in known
        ]
        progress = self._listener.progress("Finals")
        progress(0, len(todo))
        done = 0
        for task, outcome in run_tasks(self._engine, todo, self._files, self._listener, self._limits):
            assert isinstance(task, FoldTask)
            assert isinstance(outcome, (FoldOutcome, Failed, Died))
            if isinstance(outcome, FoldOutcome) and outcome.ended == TIMEOUT:
                continue
            self._keep(task, outcome)
            done += 1
            progress(done, len(todo))
        self._is_cut_short |= done < len(todo)

    def _files(self, task: Task) -> Mapping[str, bytes]:
        if isinstance(task, SoupTask):
            rows = self._complete(task.number)
            return {str(row.checkpoint): self._checkpoints.files.content(str(row.checkpoint)) for row in rows}
        assert isinstance(task, FoldTask)
        return self._checkpoints.needed_by(task.params)

    def _keep(self, task: FoldTask, outcome: FoldOutcome | Failed | Died) -> None:
        if not isinstance(outcome, FoldOutcome) or outcome.ended != DONE:
            error = _error(outcome)
            self._record.keep_fold(FoldRow(task.number, task.fold, FAILED, error=error))
            self._listener.say(f"Finals: trial {task.number} failed on {_named(task.fold)}: {error}")
            return
        logits, checkpoint = self._checkpoints.keep_fold(task.number, task.fold, outcome.logits, outcome.checkpoint)
        row = FoldRow(
            task.number, task.fold, COMPLETE, epochs=outcome.epochs, logits=logits, checkpoint=checkpoint,
            seconds=outcome.seconds, cache_seconds=outcome.cache_seconds, n_parts=outcome.n_parts,
        )  # fmt: skip
        if outcome.n_parts > 1:
            self._listener.say(f"Finals: trial {task.number} on {_named(task.fold)}: {in_parts(outcome.n_parts)}")
        self._record.keep_fold(self._scored(row) if task.fold != WHOLE_POOL else row)

    def _scored(self, row: FoldRow) -> FoldRow:
        held = self._held_out([row])
        return replace(row, n=len(held.pictures), value=self._value(held), log_loss=self._loss(held))

    def _complete(self, number: int) -> list[FoldRow]:
        return folds_of(self._record.folds(), number)

    def _held_out(self, rows: Sequence[FoldRow]) -> HeldOut:
        return read_held_out(self._checkpoints.files, self._plan.split, rows)

    def _labels(self, held: HeldOut) -> Tensor:
        return class_numbers(held.pictures, self._plan.split.classes)

    def _value(self, held: HeldOut) -> float:
        return score(self._context.metric, self._labels(held).numpy(), predicted_classes(held.logits), self._n_classes)

    def _loss(self, held: HeldOut) -> float:
        return log_loss(held.logits, self._labels(held))

    def _ranked(self, trials: Sequence[TrialRow], ranking: Sequence[int]) -> tuple[Finalist, ...]:
        """Rank finalists by their networks on some folds: those with more folds before the others, the winner first.

        The winner is the best, or the reference if the best leads by at most a standard error: among few pictures, the
        lead of the best of several is mostly chance. A finalist that failed on a fold is left out.
        """
        failed = {row.trial for row in self._record.folds() if row.state == FAILED and row.fold in ranking}
        done = {row.number: [one for one in self._complete(row.number) if one.fold in ranking] for row in trials}
        rows = {number: folds for number, folds in done.items() if folds and number not in failed}
        if not rows:
            return ()
        most = max(len(folds) for folds in rows.values())
        shared = {number: folds if len(folds) == most else folds[:1] for number, folds in rows.items()}
        held = {number: self._held_out(folds) for number, folds in shared.items()}

        def rank(number: int) -> tuple[float, ...]:
            own = held[number]
            return -len(shared[number]), -self._value(own), self._loss(own)

        order = sorted(rows, key=rank)
        reference = self._reference(trials)
        if reference in rows and len(shared[reference]) == most and self._is_close(held[order[0]], held[reference]):
            order.sort(key=lambda number: number != reference)
        return tuple(self._finalist(number, rows, order[0]) for number in order)

    def _is_close(self, one: HeldOut, other: HeldOut) -> bool:
        """Return whether the lead of some networks over others, on the same pictures, is at most a standard error."""
        low, high = self._lead(one, other)
        return self._value(one) - self._value(other) <= (high - low) / INTERVAL_ERRORS

    def _lead(self, one: HeldOut, other: HeldOut) -> tuple[float, float]:
        """Return the 95 % interval of the lead of some networks over others, on the same pictures."""
        first, second = predicted_classes(one.logits), predicted_classes(other.logits)
        return paired_interval(self._context.metric, self._labels(one).numpy(), first, second, self._n_classes)

    def _finalist(self, number: int, rows: Mapping[int, Sequence[FoldRow]], winner: int) -> Finalist:
        """Describe a finalist. It is compared with the winner on the folds that both have."""
        common = {row.fold for row in rows[number]} & {row.fold for row in rows[winner]}
        own, best = (self._held_out([row for row in rows[one] if row.fold in common]) for one in (number, winner))
        labels, predicted = self._labels(own).numpy(), predicted_classes(own.logits)
        is_winner = number == winner
        return Finalist(
            trial=number,
            folds=tuple(FoldScore(row.fold, row.n, row.value or 0.0) for row in rows[number]),
            mean=self._value(own),
            interval=score_interval(self._context.metric, labels, predicted, self._n_classes),
            behind=None if is_winner else self._lead(best, own),
            won=is_winner,
        )

    def _soup(self, winner: TrialRow, finalists: tuple[Finalist, ...]) -> Final:
        """Average the networks of all folds, or refit if the average does not predict as they do."""
        self._train([winner], range(self._n_folds))
        rows = self._complete(winner.number)
        if len(rows) < 2:
            return self._refit(winner, finalists, "refitted: fewer than two folds could be trained")
        for _, outcome in run_tasks(
            self._engine, [SoupTask(winner.number, winner.params)], self._files, self._listener, self._limits.for_soup()
        ):
            if isinstance(outcome, SoupOutcome):
                break
        else:
            return self._refit(winner, finalists, "refitted: the average of the folds' networks failed")
        agrees = outcome.divergence <= MOST_DIVERGENCE and outcome.changed <= MOST_CHANGED
        if not agrees:
            reason = (
                "refitted: the average of the networks does not predict as they do (divergence "
                f"{outcome.divergence:.2f}, {percent(outcome.changed)} of the predictions changed)"
            )
            return self._refit(winner, finalists, reason)
        final = self._described(winner, SOUP, finalists)
        return replace(
            final,
            checkpoint=self._checkpoints.keep_soup(winner.number, outcome.checkpoint),
            divergence=outcome.divergence,
            changed=outcome.changed,
            reason=f"average of the weights of {plural(len(rows), 'network')} of trial {winner.number}, one per fold",
        )

    def _refit(self, winner: TrialRow, finalists: tuple[Finalist, ...], reason: str) -> Final:
        """Train one network on the whole pool."""
        self._train([winner], [WHOLE_POOL])
        found = [row for row in self._record.folds() if (row.trial, row.fold) == (winner.number, WHOLE_POOL)]
        if not found or found[0].state == FAILED:
            why = "the refit failed" if found else "the time limit left no time for a refit"
            return replace(self._best_trial(winner, f"trial {winner.number}, because {why}"), finalists=finalists)
        final = self._described(winner, REFIT, finalists)
        return replace(final, checkpoint=str(found[0].checkpoint), reason=f"trial {winner.number}, {reason}")

    def _described(self, winner: TrialRow, how: str, finalists: tuple[Finalist, ...]) -> Final:
        """Return the final model with the scores of the winner's folds, still without its checkpoint."""
        final = Final(winner.number, self._setting, how, checkpoint="", finalists=finalists)
        rows = self._complete(winner.number)
        if not rows:
            return final
        held = self._held_out(rows)
        return replace(
            final,
            folds=tuple(row.fold for row in rows),
            n=len(held.pictures),
            value=self._value(held),
            log_loss=self._loss(held),
            temperature=fit_temperature(held.logits, self._labels(held)),
        )

    def _best_trial(self, trial: TrialRow, reason: str) -> Final:
        return Final(trial.number, self._setting, TRIAL, str(trial.checkpoint), reason=reason)


def _named(fold: int) -> str:
    return "the whole pool" if fold == WHOLE_POOL else f"fold {fold}"


def _error(outcome: FoldOutcome | Failed | Died) -> str:
    if isinstance(outcome, Failed):
        return outcome.error
    return outcome.reason if isinstance(outcome, Died) else f"training {outcome.ended}"
