"""Tells how long the rest of a running study takes, and keeps time back for what follows the trials."""

from __future__ import annotations

import time
from collections.abc import Sequence

from autotune.search.cost import FINALS_SHARE
from autotune.search.plan import Plan
from autotune.study.finals.race import Race
from autotune.study.listener import StudyListener
from autotune.study.storage.record import Record
from autotune.study.storage.rows import TrialRow
from autotune.study.timing.feature_cost import feature_costs
from autotune.study.timing.forecast import Forecast, Missing, TimeLeft, UnderWay
from autotune.study.timing.limits import TimeLimits
from autotune.training.context import LoadedBackbones

SOONEST = 1.0  # seconds between two estimates during trials
NEWLY_FILLED = 0.5  # seconds of filling the feature cache after which its missing rows are counted again


class TimeKeeper:
    """Follows one run of a study.

    backbones: of the driver's process, to count missing features. trials, finals: the limits of both, whose kept_back
    is set here. n_trials: in total.
    """

    def __init__(self, forecast: Forecast, plan: Plan, backbones: LoadedBackbones, record: Record,
                 listener: StudyListener, trials: TimeLimits, finals: TimeLimits, n_trials: int) -> None:  # fmt: skip
        self._forecast = forecast
        self._plan = plan
        self._backbones = backbones
        self._record = record
        self._listener = listener
        self._trials = trials
        self._finals = finals
        self._n_trials = n_trials
        self._test = 0.0  # seconds
        self._missing: Missing = {}
        self._counted_at: float | None = None  # seconds that the trials had filled the cache for
        self._share: float | None = None  # seconds, of the finals
        self._updated_at = float("-inf")

    def end_trials(self) -> None:
        """From now on, no trial follows, even if fewer have run than were asked for."""
        self._n_trials = 0

    def follow(self, running: Sequence[UnderWay]) -> None:
        """Estimate the time left again during trials, at most once a second: some epochs take milliseconds."""
        if time.monotonic() - self._updated_at >= SOONEST:
            self.update(running)

    def update(self, running: Sequence[UnderWay] = ()) -> None:
        """Estimate the time left again: after a trial or a network of the finals has started or finished."""
        self._updated_at = time.monotonic()
        trials, folds = self._record.trials(), self._record.folds()
        if len(trials) < self._n_trials:
            self._count_missing(sum(row.cache_seconds or 0.0 for row in trials))
        left = self._forecast.left(self._n_trials, trials, folds, self._missing, running)
        at_most = self._trials.until_deadline
        if at_most is not None:
            self._keep_back(left, max(at_most, 0.0))
        seconds = left.total if at_most is None else min(left.total, max(at_most, 0.0))
        self._record.keep_left(seconds)
        self._listener.estimated(seconds)

    def _count_missing(self, cache_seconds: float) -> None:
        """Count the features that the cache lacks, unless the trials have hardly filled it since: it reads all keys."""
        if self._counted_at is None or cache_seconds > self._counted_at + NEWLY_FILLED:
            costs = feature_costs(self._plan, self._backbones)
            self._missing = {(one.backbone, one.pixels): one.pictures_missing for one in costs}
            self._counted_at = cache_seconds

    def has_time_for_race(self, race: Race) -> bool:
        left = self._finals.until_deadline
        return left is None or self._forecast.race_seconds(race, self._record.trials()) + self._test <= left

    def has_time_for_refit(self, row: TrialRow) -> bool:
        left = self._finals.with_grace().until_deadline
        return left is None or self._forecast.refit_seconds(row, self._record.trials()) + self._test <= left

    def _keep_back(self, left: TimeLeft, at_most: float) -> None:
        """Keep time for the test, and for the finals no more than their share of the time there was at first."""
        self._test = left.test
        if self._share is None:
            self._share = FINALS_SHARE / (1 + FINALS_SHARE) * max(at_most - left.test, 0.0)
        self._finals.kept_back = left.soup + left.test
        self._trials.kept_back = left.test + min(left.networks + left.soup, self._share)
