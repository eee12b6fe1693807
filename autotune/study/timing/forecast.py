"""How long the rest of a study takes: counted work, at the speed of this machine and of what has finished so far."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from autotune.data.split import TEST, TRAIN, VALIDATION
from autotune.search.cost import EPOCHS_SHARE, FINALS_SHARE
from autotune.search.plan import Plan
from autotune.search.speed import MachineSpeed, Speeds
from autotune.study.finals.race import Race, RacePlanner
from autotune.study.storage.rows import COMPLETE, SOUP, TRIAL, FoldRow, TrialRow
from autotune.training.batches import views_up_to
from autotune.training.context import SEARCHED, WHOLE_POOL, TrialContext
from autotune.training.params import Params
from autotune.training.phases import planned_phases, total_epochs

TRIAL_SECONDS = 0.3  # of a trial or a network of the finals, without its epochs
EPOCH_SECONDS = 0.03  # of an epoch, without its steps
STEP_SECONDS = 0.004  # of a step, without its arithmetic
BATCH = 32  # pictures of a step
STEP_PASSES = 3  # a step takes as long as three forward passes
DECODE_SECONDS = 0.01  # of a test picture, which is not in the cache
TEST_SECONDS = 1.0  # of the test, without its pictures
RECENT = 10  # trials from which the speed and the mean duration are learned
PRIOR = 2  # trials that the estimate before the first one counts as
LEAST_SECONDS = 0.3  # of a trial in a geometric mean

Missing = Mapping[tuple[str, int], int]  # pictures that the feature cache lacks, by backbone and size


@dataclass(frozen=True)
class TimeLeft:
    """Estimated seconds left, by kind of work. features: of the cache, for the trials.

    networks: of the finals. soup: of their average.
    """

    features: float
    trials: float
    networks: float
    soup: float
    test: float

    @property
    def total(self) -> float:
        return self.features + self.trials + self.networks + self.soup + self.test


@dataclass(frozen=True)
class UnderWay:
    """A running trial. epochs: those that it has finished."""

    params: Params
    epochs: int


class Forecast:
    """Estimates the time left of one study. For display and for time limits only: nothing else may depend on time.

    planner: of the finals. speeds: measured on this machine. How far off the counted seconds of the latest trials were
    corrects those of the others. n_workers: the trials that run at once; each then takes longer.
    """

    def __init__(self, plan: Plan, context: TrialContext, planner: RacePlanner, speeds: Speeds, n_workers: int) -> None:
        self._plan = plan
        self._context = context
        self._planner = planner
        self._speeds = speeds
        self._n_workers = n_workers
        self._n_train, self._n_validation, self._n_test = (
            len(plan.split.part(part)) for part in (TRAIN, VALIDATION, TEST)
        )

    def left(self, n_trials: int, trials: Sequence[TrialRow], folds: Sequence[FoldRow], missing: Missing,
             running: Sequence[UnderWay] = ()) -> TimeLeft:  # fmt: skip
        """Return the time left.

        n_trials: in total. trials, folds: the finished trials and networks of the finals. missing: counted once per
        view. running: the trials whose hyperparameters are known, so that no mean stands for them.
        """
        n_left = max(n_trials - len(trials), 0)
        features = sum(self._speeds[key].forward * n for key, n in missing.items()) if n_left else 0.0
        known = [*running]
        seen = [*(row.params for row in trials), *(one.params for one in known)]
        if n_left > len(known) and self._plan.recipe and not any(params.is_recipe for params in seen):
            known.append(UnderWay(self._plan.recipe, epochs=0))
        in_trials = max(n_left - len(known), 0) * self._trial_seconds(trials)
        in_trials += self._factor(trials) * sum(self._rest_seconds(one) for one in known)
        networks, soup = self._finals(n_trials, trials, folds, features + in_trials)
        return TimeLeft(features, in_trials, networks, soup, self._test(has_folds=bool(folds)))

    def race_seconds(self, race: Race, trials: Sequence[TrialRow]) -> float:
        """Return how long a race and the final model after it take. trials: finished, to learn the speed from."""
        return self._networks(race, trials, ()) + self._soup(race.affordable, trials)

    def refit_seconds(self, row: TrialRow, trials: Sequence[TrialRow]) -> float:
        """Return how long it takes to train a trial's network on the whole pool."""
        return self._factor(trials) * self._network_seconds(row)

    def _networks(self, race: Race, trials: Sequence[TrialRow], folds: Sequence[FoldRow]) -> float:
        """Return the seconds of the networks of a race and of its winner, without those in `folds`.

        The reference is always in the second round if there are two places, and wins most races. Which other finalists
        reach the second round is not known, so these count as their mean.
        """
        views = 0.0 if folds else max(self._view_seconds(row) for row in race.finalists)
        if race.is_duel:
            return views + self._factor(trials) * self._duel(race, folds)
        seconds = {row.number: self._network_seconds(row) for row in race.finalists}
        first = race.finalists[0].number
        others = [value for number, value in seconds.items() if number != first]
        n_later = self._context.n_folds - 2
        n_left = max(len(seconds) + race.n_second * n_later + 2 - len(folds), 0)
        n_of_first = min(max(1 + n_later + 2 - sum(row.trial == first for row in folds), 0), n_left)
        networks = n_of_first * seconds[first] + (n_left - n_of_first) * fmean(others or [0.0])
        return views + self._factor(trials) * networks

    def _duel(self, race: Race, folds: Sequence[FoldRow]) -> float:
        """Return the counted seconds of a duel's networks and of a refit of its second finalist, without `folds`."""
        known = {(row.trial, row.fold) for row in folds}
        first, second = race.finalists
        networks = ((first, SEARCHED + 1), (second, SEARCHED + 1), (second, WHOLE_POOL))
        return sum(self._network_seconds(row) for row, fold in networks if (row.number, fold) not in known)

    def _soup(self, finalists: Sequence[TrialRow], trials: Sequence[TrialRow]) -> float:
        """Return the seconds of averaging networks: each predicts two views of the pool, and so does the average."""
        if self._plan.settings.final != SOUP:
            return 0.0
        averaged = [row for row in finalists if not self._context.is_from_scratch(row.params.backbone)]
        n_views = 2 * (self._context.n_folds + 2) * len(self._context.pool)
        return self._factor(trials) * max((self._predicting(row.params, n_views) for row in averaged), default=0.0)

    def _test(self, has_folds: bool) -> float:
        """Return the seconds of the test. Without networks of the finals, it also predicts the validation pictures."""
        n = self._n_test + (0 if has_folds else self._n_validation)
        return TEST_SECONDS + n * (max(speed.forward for speed in self._speeds.values()) + DECODE_SECONDS)

    def _finals(self, n_trials: int, trials: Sequence[TrialRow], folds: Sequence[FoldRow],
                before: float) -> tuple[float, float]:  # fmt: skip
        """Return the seconds of the networks of the finals and of their average. before: those of the trials left."""
        if self._plan.settings.final == TRIAL:
            return 0.0, 0.0
        complete = [row for row in trials if row.state == COMPLETE]
        if not complete:
            return FINALS_SHARE * before, 0.0
        race = self._planner.race(complete, trials, n_trials=n_trials if before else 0)
        if race is None:
            return (0.0 if folds else self.refit_seconds(complete[0], trials)), 0.0
        return self._networks(race, trials, folds), self._soup(race.affordable, trials)

    def _trial_seconds(self, trials: Sequence[TrialRow]) -> float:
        """Return the expected duration of a trial to come, without the feature cache.

        The search soon prefers cheap trials, and a few expensive ones say little of the others, so it is a geometric
        mean; the trials of the warm start, which cover all depths, only correct the expectation before them.
        """
        chosen = [row for row in _timed(trials) if row.number not in self._planner.warm_starts]
        expected = self._expected_seconds() * self._factor(trials)
        return _geometric_mean([*(self._actual(row) for row in chosen), *[expected] * PRIOR])

    def _rest_seconds(self, trial: UnderWay) -> float:
        """Return the counted seconds of the rest of a trial, which may be stopped before its last epoch."""
        planned = planned_phases(trial.params, self._context.epochs, self._context.cycle_epochs)
        most = total_epochs(planned)
        expected = most if trial.params.is_recipe else max(most * EPOCHS_SHARE, 1)
        whole = self._counted(trial.params, most, self._n_train, 2 * self._n_validation)
        return whole * max(expected - trial.epochs, min(most - trial.epochs, 1)) / most

    def _expected_seconds(self) -> float:
        """Return the mean over backbones, sizes and depths."""
        epochs = max(self._context.epochs * EPOCHS_SHARE, 1)
        return _geometric_mean(
            [
                self._seconds(one.backbone.name, profile.pixels, depth, epochs, self._n_train, 2 * self._n_validation)
                for one in self._plan.selection.candidates
                for profile in one.profiles
                for depth in one.depths
            ]
        )

    def _factor(self, trials: Sequence[TrialRow]) -> float:
        """Return how much longer than counted the latest trials took."""
        done = _timed(trials)
        prior = PRIOR * self._expected_seconds()
        counted = sum(self._counted(row.params, row.epochs or 0, self._n_train, 2 * self._n_validation) for row in done)
        return (prior + sum(self._actual(row) for row in done)) / (prior + counted)

    def _actual(self, row: TrialRow) -> float:
        return ((row.seconds or 0.0) - (row.cache_seconds or 0.0)) / self._n_workers

    def _network_seconds(self, row: TrialRow) -> float:
        """Return the counted seconds of one network of the finals."""
        pool, n = len(self._context.pool), self._context.n_folds
        return self._counted(row.params, self._planner.epochs(row), round(pool * (n - 1) / n), 0)

    def _view_seconds(self, row: TrialRow) -> float:
        """Return the seconds of the augmented features of the validation pictures, which the finals train on."""
        params = row.params
        if not self._plan.cuts.get((params.backbone, params.pixels)):
            return 0.0
        n_views = len(views_up_to(params.augment)) - 1
        return n_views * self._n_validation * self._speeds[params.backbone, params.pixels].forward

    def _counted(self, params: Params, epochs: int, n_train: int, n_evaluated: int) -> float:
        """Return the seconds of some epochs with these hyperparameters, as `_seconds`; of all epochs of a recipe."""
        return sum(
            self._seconds(params.backbone, params.pixels, one.params.depth, one.epochs, n_train, n_evaluated)
            for one in planned_phases(params, epochs, self._context.cycle_epochs)
        )

    def _predicting(self, params: Params, n_pictures: int) -> float:
        return self._seconds(params.backbone, params.pixels, params.depth, 1, 0, n_pictures)

    def _seconds(self, backbone: str, pixels: int, depth: int, epochs: float, n_train: int, n_evaluated: int) -> float:
        """Return the seconds of some epochs. n_evaluated: pictures that are evaluated after each epoch."""
        speed = self._speeds[backbone, pixels]
        frozen = self._frozen_seconds(speed, backbone, pixels, depth)
        steps = STEP_SECONDS * math.ceil(n_train / BATCH)
        training = n_train * (STEP_PASSES * speed.tail(depth) + frozen)
        evaluation = n_evaluated * (speed.tail(depth) + frozen)
        return TRIAL_SECONDS + epochs * (EPOCH_SECONDS + steps + training + evaluation)

    def _frozen_seconds(self, speed: MachineSpeed, backbone: str, pixels: int, depth: int) -> float:
        """Return the seconds per picture and epoch in the frozen stages: 0 if their output is cached."""
        cut = len(speed.stages) - depth
        return 0.0 if cut in self._plan.cuts.get((backbone, pixels), ()) else speed.forward - speed.tail(depth)


def _timed(trials: Collection[TrialRow]) -> list[TrialRow]:
    """Return the latest trials whose duration is known."""
    known = [row for row in trials if row.seconds and row.epochs]
    return sorted(known, key=lambda row: row.number)[-RECENT:]


def _geometric_mean(seconds: Sequence[float]) -> float:
    return math.exp(fmean(math.log(max(one, LEAST_SECONDS)) for one in seconds))
