"""Which trials take part in the finals: as many as their counted operations allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from autotune.search.cost import FINALS_SHARE, expected_operations, expected_shares
from autotune.search.cost_penalty import cost_penalty
from autotune.search.plan import Plan
from autotune.study.storage.rows import TrialRow
from autotune.training.context import TrialContext
from autotune.training.phases import planned_phases

# Finalists of the first round, which is one fold, and of the second, which is all folds except the searched one.
RACES = ((4, 2), (3, 2), (2, 2), (2, 1), (1, 1))
CLEAR = 2.0  # standard errors, by which the best trial wins without a race
LEAST_VARIANCE = 1e-9  # of two scores of 0 or 1


@dataclass(frozen=True)
class Race:
    """The finalists, the reference first, and how many of them reach the second round.

    n_second: 0 in a duel with a trial that is too expensive for more than one fold. reference: the number of the trial
    that loses only to a clearly better one, or None.
    """

    finalists: tuple[TrialRow, ...]
    n_second: int
    reference: int | None

    @property
    def is_duel(self) -> bool:
        """Whether the second finalist is too expensive for all folds: if it wins, one more network is trained."""
        return not self.n_second

    @property
    def affordable(self) -> tuple[TrialRow, ...]:
        """The finalists that may be trained on all folds."""
        return self.finalists[:1] if self.is_duel else self.finalists


class RacePlanner:
    """Plans the race of one study.

    plan: with the best backbone first. warm_starts: numbers of trials whose hyperparameters are known to work.
    """

    def __init__(self, plan: Plan, context: TrialContext, warm_starts: Collection[int]) -> None:
        self._plan = plan
        self._context = context
        self.warm_starts = warm_starts
        self._penalty = cost_penalty(plan)
        self._backbones = [one.backbone.name for one in plan.selection.candidates]

    def race(self, complete: Sequence[TrialRow], finished: Iterable[TrialRow],
             fits: Callable[[Race], bool] = lambda race: True, n_trials: int = 0) -> Race | None:  # fmt: skip
        """Return the race that the work of a study allows; None if it allows none.

        That is the work of its trials, or what as many trials would take that are spread evenly: a search that has
        spent its time on cheap trials may still compare the expensive ones of the warm start.
        complete: the complete trials, best first; finished: all trials; n_trials: in the end, if more are to come.
        fits: whether there is time for a race. The reference is always a finalist, then come the best trials. A trial
        that is too expensive even alone is passed over, unless it is clearly the best: then there is a duel, or no
        race at all if this takes too long as well.
        """
        done = list(finished)
        work = max(sum(self._trial_work(row) for row in done), self._expected_work(max(len(done), n_trials)))
        most = FINALS_SHARE * (self._cache_work() + work)
        able = [row for row in complete if self._race_work([row], 1) <= most]
        reference = self._reference(able)
        able.sort(key=lambda row: row.number != reference)  # stable: the others stay in order
        errors = self._errors_ahead(complete[0], able)
        duel = Race((able[0], complete[0]), 0, reference) if errors > 1 else None
        if duel and self._duel_work(duel) <= most and fits(duel):
            return duel
        if errors > CLEAR:
            return None
        for first, second in RACES:
            race = Race(tuple(able[:first]), second, reference)
            if first <= len(able) and self._race_work(race.finalists, second) <= most and fits(race):
                return race
        return None

    def epochs(self, row: TrialRow) -> int:
        """Return the epochs for which a network of the finals is trained with the hyperparameters of a trial."""
        context = self._context
        if row.params.is_recipe:
            return sum(phase.epochs for phase in row.params.phases)
        return fold_epochs(row.params.cycle, row.best_epoch or 1, context.cycle_epochs, context.epochs)

    def _reference(self, trials: Iterable[TrialRow]) -> int | None:
        """Return the number of the best backbone's best warm start trial with unfrozen stages, or None.

        trials: best first. The probes rank backbones better than trials do: they are judged on more pictures. The best
        trial is the one with the best value for the sampler, so an expensive one must be better by several pictures.
        """

        def order(row: TrialRow) -> tuple[int, float]:
            return self._backbones.index(row.params.backbone), -self._penalty.applied(row.value or 0.0, row.params)

        known = [row for row in trials if row.number in self.warm_starts]
        first = min((row for row in known if self._context.starts_from_probe(row.params)), key=order, default=None)
        return first.number if first else None

    def _errors_ahead(self, best: TrialRow, able: Sequence[TrialRow]) -> float:
        """Return by how many standard errors the best trial leads those that are able to race; 0 if it is one of them.

        Those of a difference of two shares of other pictures: of the same ones, it is smaller.
        """
        if not able or best in able:
            return 0.0
        value, other = best.value or 0.0, max(row.value or 0.0 for row in able)
        variance = (value * (1 - value) + other * (1 - other)) / self._penalty.n_validation
        return (value - other) / math.sqrt(max(variance, LEAST_VARIANCE))

    def _duel_work(self, duel: Race) -> float:
        """Count the operations of a duel and of the final model, whoever wins."""
        rival, best = duel.finalists
        n = self._context.n_folds
        refit = self._fold_work(best) * n / (n - 1)
        return self._fold_work(best) + max(self._fold_work(rival) + refit, self._race_work([rival], 1))

    def _race_work(self, finalists: Sequence[TrialRow], n_second: int) -> float:
        """Count the operations of a race and of the final model, if the costliest finalists reach the second round."""
        costs = sorted((self._fold_work(row) for row in finalists), reverse=True)
        n = self._context.n_folds
        final = costs[0] * (1 + n / (n - 1))  # without the searched fold, and on the whole pool
        return sum(costs) + sum(costs[:n_second]) * (n - 2) + final

    def _expected_work(self, n_trials: int) -> float:
        """Count the operations of trials that are spread evenly over backbones, sizes and depths."""
        selection = self._plan.selection
        shares = expected_shares(selection, self._plan.settings, self._plan.split, n_trials)
        return expected_operations(selection, self._plan.cuts, shares)

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
        return self._work(row, row.epochs or 0, len(self._context.train))

    def _fold_work(self, row: TrialRow) -> float:
        pool, n = len(self._context.pool), self._context.n_folds
        return self._work(row, self.epochs(row), pool * (n - 1) / n)

    def _work(self, row: TrialRow, epochs: int, pictures: float) -> float:
        """Count the operations of training with the hyperparameters of a trial. pictures: of an epoch."""
        params, operations = row.params, self._penalty.operations
        phases = planned_phases(params, epochs, self._context.cycle_epochs)
        return pictures * sum(
            one.epochs * operations[params.backbone, params.pixels, one.params.depth] for one in phases
        )


def fold_epochs(cycle: str, best_epoch: int, cycle_epochs: int, epochs: int) -> int:
    """Return the epochs of a trial's schedule: all of a one-cycle trial, else the end of the cycle nearest its best."""
    if cycle == "one-cycle":
        return epochs
    return max(round(best_epoch / cycle_epochs), 1) * cycle_epochs
