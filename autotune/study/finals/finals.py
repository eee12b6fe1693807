"""Finals: the best trials are trained again on other folds of the pool, and the winner becomes the final model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from autotune.data.folds import class_gaps
from autotune.engines.base import Died, Engine, Failed, FoldTask, SoupTask, Task, Unfinished
from autotune.search.plan import Plan
from autotune.study.driver import run_tasks
from autotune.study.finals.held_out import folds_of
from autotune.study.finals.race import Race, RacePlanner
from autotune.study.finals.ranking import Ranking
from autotune.study.listener import StudyListener
from autotune.study.storage.checkpoints import Checkpoints
from autotune.study.storage.record import Record
from autotune.study.storage.rows import COMPLETE, FAILED, REFIT, SOUP, TRIAL, Final, Finalist, FoldRow, TrialRow
from autotune.study.timing.limits import TimeLimits
from autotune.study.timing.time_keeper import TimeKeeper
from autotune.text import in_parts, percent, plural
from autotune.training.context import SEARCHED, WHOLE_POOL, TrialContext
from autotune.training.outcome import DONE, TIMEOUT, FoldOutcome, SoupOutcome

MOST_DIVERGENCE = 0.25  # nats; between a soup and the mean probability of its networks (benchmarks/selection.txt)
MOST_CHANGED = 0.02  # share of the predictions
FINAL_MODEL = "final model"  # a part of the finals, as shown
REFITTED = "refitted on all pictures except the test set"
NO_TIME_FOR_REFIT = "the time limit left no time for a refit"


class Finals:
    """The finals of one study.

    After the deadline of the limits, no network is trained. keeper: is told of every finished network, and knows
    whether there is time for one.
    """

    def __init__(self, engine: Engine, record: Record, checkpoints: Checkpoints, plan: Plan, context: TrialContext,
                 listener: StudyListener, planner: RacePlanner, limits: TimeLimits,
                 keeper: TimeKeeper) -> None:  # fmt: skip
        self._engine = engine
        self._record = record
        self._checkpoints = checkpoints
        self._plan = plan
        self._context = context
        self._listener = listener
        self._limits = limits
        self._planner = planner
        self._keeper = keeper
        self._ranking = Ranking(checkpoints.files, plan.split, context.metric)
        self._setting = plan.settings.final
        self._is_cut_short = False  # by the deadline

    def run(self) -> None:
        """Train what is missing, choose the winner and record the final model. Without a complete trial, do nothing."""
        trials = [row for row in self._record.trials() if row.state == COMPLETE]
        if trials:
            final = self._final(trials)
            passed_over = _passed_over(trials, final.finalists)
            final = replace(final, is_complete=not self._is_cut_short, passed_over=passed_over)
            self._record.keep_final(final)
            self._listener.say(f"Final model: {final.reason}.")

    def _final(self, trials: Sequence[TrialRow]) -> Final:
        if self._setting == TRIAL:
            return self._best_trial(trials[0], f"trial {trials[0].number}, the best, as set by `final`")
        if not any(row.epochs for row in trials):
            self._is_cut_short = True
            return self._best_trial(trials[0], "the linear probe, because the time limit left no time to train")
        race = self._planner.race(trials, self._record.trials(), self._keeper.has_time_for_race)
        if race is None:
            return self._without_race(trials)
        return replace(self._after_race(race, trials), is_duel=race.is_duel)

    def _after_race(self, race: Race, trials: Sequence[TrialRow]) -> Final:
        """Run a race and make the final model of its winner."""
        finalists = self._run_race(race)
        winner = next((row for one in finalists if one.won for row in trials if row.number == one.trial), None)
        if winner is None:
            why = "the time limit left no time for finals" if self._is_cut_short else "every finalist failed"
            return self._best_trial(trials[0], f"trial {trials[0].number}, the best, because {why}")
        if winner not in race.affordable:
            return self._refit(winner, finalists, f"{REFITTED}; a network for each fold would take too long")
        if self._setting == SOUP and not self._context.is_from_scratch(winner.params.backbone):
            return self._soup(winner, finalists)
        return self._refit(winner, finalists, REFITTED)

    def _without_race(self, trials: Sequence[TrialRow]) -> Final:
        if self._planner.race(trials, self._record.trials()):
            self._listener.say("No finals: the time limit leaves no time for them.")
            self._is_cut_short = True
        else:
            self._listener.say("No finals: the best trial's would take more than half of the work of the trials.")
        if self._keeper.has_time_for_refit(trials[0]):
            return self._refit(trials[0], (), REFITTED)
        self._is_cut_short = True
        return self._best_trial(trials[0], f"trial {trials[0].number}, the best, because {NO_TIME_FOR_REFIT}")

    def _run_race(self, race: Race) -> tuple[Finalist, ...]:
        """Train the finalists on other folds than the searched one, and rank them."""
        if gaps := class_gaps(self._plan.split):
            some = ", ".join(gaps[:3]) + (", ..." if len(gaps) > 3 else "")
            self._listener.say(f"Finals: {plural(len(gaps), 'class')} with too few pictures for every fold: {some}.")
        first_fold = SEARCHED + 1
        self._train(race.finalists, [first_fold], "first fold")
        finalists = self._ranked(race, [first_fold])
        if race.is_duel:
            return finalists
        ranked = [one.trial for one in finalists]
        if race.n_second > 1:
            ranked.sort(key=lambda number: number != race.reference)
        folds = range(first_fold, self._context.n_folds)
        self._train([row for row in race.finalists if row.number in ranked[: race.n_second]], folds, "other folds")
        return self._ranked(race, folds)

    def _ranked(self, race: Race, folds: Sequence[int]) -> tuple[Finalist, ...]:
        numbers = [row.number for row in race.finalists]
        return self._ranking.finalists(self._record.folds(), numbers, folds, race.reference)

    def _train(
        self, trials: Iterable[TrialRow], folds: Iterable[int], part: str, limits: TimeLimits | None = None
    ) -> None:
        """Train the missing networks of some trials on some folds, and record them.

        part: of the finals, in words. limits: by default those of the finals.
        """
        known = {(row.trial, row.fold) for row in self._record.folds()}
        folds = list(folds)
        todo = [
            FoldTask(row.number, row.params, fold, self._planner.epochs(row))
            for row in trials
            for fold in folds
            if (row.number, fold) not in known
        ]
        progress = self._listener.progress(f"Finals, {part}")
        progress(0, len(todo))
        done = 0
        for task, outcome in run_tasks(self._engine, todo, self._files, self._listener, limits or self._limits):
            assert isinstance(task, FoldTask)
            if isinstance(outcome, Unfinished) or (isinstance(outcome, FoldOutcome) and outcome.ended == TIMEOUT):
                continue
            assert isinstance(outcome, (FoldOutcome, Failed, Died))
            self._keep(task, outcome)
            self._keeper.update()
            done += 1
            progress(done, len(todo))
        self._is_cut_short |= done < len(todo)

    def _files(self, task: Task) -> Mapping[str, bytes]:
        if isinstance(task, SoupTask):
            rows = self._complete(task.number) + self._whole(task.number)
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
        self._record.keep_fold(self._ranking.scored(row) if task.fold != WHOLE_POOL else row)

    def _complete(self, number: int) -> list[FoldRow]:
        return folds_of(self._record.folds(), number)

    def _whole(self, number: int) -> list[FoldRow]:
        """Return the network of a trial that holds nothing out, if it is complete."""
        rows = [row for row in self._record.folds() if (row.trial, row.fold) == (number, WHOLE_POOL)]
        return [row for row in rows if row.state == COMPLETE]

    def _soup(self, winner: TrialRow, finalists: tuple[Finalist, ...]) -> Final:
        """Average the networks of all folds and one of the whole pool, or use this one if the average differs."""
        self._train([winner], [*range(self._context.n_folds), WHOLE_POOL], FINAL_MODEL)
        rows, whole = self._complete(winner.number), self._whole(winner.number)
        if len(rows) < 2:
            return self._refit(winner, finalists, "refitted: fewer than two folds could be trained")
        for _, outcome in run_tasks(
            self._engine, [SoupTask(winner.number, winner.params)], self._files, self._listener,
            self._limits.without_deadline(),
        ):  # fmt: skip
            if isinstance(outcome, SoupOutcome):
                break
        else:
            return self._refit(winner, finalists, "refitted: the average of the networks failed")
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
            has_whole=bool(whole),
            reason=f"average of the weights of {plural(len(rows) + len(whole), 'network')} of trial {winner.number}, "
            + ("one per fold and one of all folds" if whole else "one per fold"),
        )

    def _refit(self, winner: TrialRow, finalists: tuple[Finalist, ...], reason: str) -> Final:
        """Train one network on the whole pool. A search that ends late may take a little longer for it."""
        self._train([winner], [WHOLE_POOL], FINAL_MODEL, self._limits.with_grace())
        found = [row for row in self._record.folds() if (row.trial, row.fold) == (winner.number, WHOLE_POOL)]
        if not found or found[0].state == FAILED:
            why = "the refit failed" if found else NO_TIME_FOR_REFIT
            return replace(self._best_trial(winner, f"trial {winner.number}, because {why}"), finalists=finalists)
        final = self._described(winner, REFIT, finalists)
        return replace(final, checkpoint=str(found[0].checkpoint), reason=f"trial {winner.number}, {reason}")

    def _described(self, winner: TrialRow, how: str, finalists: tuple[Finalist, ...]) -> Final:
        """Return the final model with the scores of the winner's folds, still without its checkpoint."""
        final = Final(winner.number, self._setting, how, checkpoint="", finalists=finalists)
        rows = self._complete(winner.number)
        if not rows:
            return final
        n, value, loss, temperature = self._ranking.pooled(rows)
        return replace(
            final,
            folds=tuple(row.fold for row in rows),
            n=n,
            value=value,
            log_loss=loss,
            temperature=temperature,
        )

    def _best_trial(self, trial: TrialRow, reason: str) -> Final:
        return Final(trial.number, self._setting, TRIAL, str(trial.checkpoint), reason=reason)


def _passed_over(trials: Sequence[TrialRow], finalists: Sequence[Finalist]) -> tuple[int, ...]:
    """Return the numbers of the trials that are better than a finalist, but too expensive to train again.

    trials: complete ones, best first. Unless the reference, a finalist is the best of those that are not.
    """
    numbers = [row.number for row in trials]
    last = max((numbers.index(one.trial) for one in finalists if not one.is_reference), default=0)
    known = {one.trial for one in finalists}
    return tuple(number for number in numbers[:last] if number not in known)


def _named(fold: int) -> str:
    return "the whole pool" if fold == WHOLE_POOL else f"fold {fold}"


def _error(outcome: FoldOutcome | Failed | Died) -> str:
    if isinstance(outcome, Failed):
        return outcome.error
    return outcome.reason if isinstance(outcome, Died) else f"training {outcome.ended}"
