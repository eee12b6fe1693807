"""Trials: what to try next. Optuna asks, is told, and says which trials are not worth finishing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from autotune.search.settings import ETA, Settings
from autotune.search.space import BackboneOptions, suggest
from autotune.search.warm_start import first_trials
from autotune.training.params import Params

if TYPE_CHECKING:
    from autotune.training.outcome import Epoch

# Hyperband chooses a trial's bracket by hashing the study's name, so the name must not vary between runs.
STUDY_NAME = "autotune"
STARTUP_TRIALS = 5

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class OptunaStudy:
    """One Optuna study, driven by ask, report and tell from this process alone."""

    def __init__(self, file: Path, settings: Settings, arms: tuple[BackboneOptions, ...]) -> None:
        self._settings = settings
        self._arms = arms
        self._study = optuna.create_study(
            storage=f"sqlite:///{file}",
            study_name=STUDY_NAME,
            direction="maximize",
            pruner=_pruner(settings),
            load_if_exists=True,
        )

    def enqueue(self, arms: Sequence[BackboneOptions]) -> None:
        """Put the recipes of old hands first, each once; the arms come best first."""
        for recipe in first_trials(self._settings.space, tuple(arms)):
            self._study.enqueue_trial(recipe, skip_if_exists=True)

    def unfinished(self) -> list[Trial]:
        """Trials that a killed driver left running, by number. They keep their number, Params and seed."""
        running = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        return [self._again(trial) for trial in sorted(running, key=lambda trial: trial.number)]

    def n_finished(self) -> int:
        return sum(trial.state.is_finished() for trial in self._trials())

    def ask(self) -> Trial:
        """The next trial: one waiting in the queue, or a new one. Its randomness comes from (seed, number)."""
        waiting = [trial.number for trial in self._trials() if trial.state == TrialState.WAITING]
        self._seed(min(waiting) if waiting else len(self._trials()))
        return self._study.ask()

    def params(self, trial: Trial) -> Params:
        """A trial's Params; what it was not given before is drawn now."""
        self._seed(trial.number)
        return suggest(trial, self._settings.space, self._arms)

    def should_prune(self, trial: Trial, row: Epoch) -> bool:
        """Report the end of a cycle. The last epoch prunes nothing; one reported before a restart is judged as then."""
        if not row.cycle_end or row.number >= self._settings.n_epochs:
            return False
        if row.number in self._study._storage.get_trial(trial._trial_id).intermediate_values:
            return bool(trial.user_attrs.get("pruned_at") == row.number)
        trial.report(row.validation, row.number)
        pruned = trial.should_prune()
        if pruned:
            trial.set_user_attr("pruned_at", row.number)
        return pruned

    def tell(self, trial: Trial, value: float | None, state: TrialState) -> None:
        self._study.tell(trial, value if state == TrialState.COMPLETE else None, state, skip_if_finished=True)

    def _again(self, trial: FrozenTrial) -> Trial:
        self._seed(trial.number)
        return Trial(self._study, trial._trial_id)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _seed(self, number: int) -> None:
        self._study.sampler = _sampler(self._settings, number)


def _sampler(settings: Settings, number: int) -> optuna.samplers.BaseSampler:
    seed = (settings.seed * 1_000_003 + number) % 2**32
    if settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if settings.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    if settings.sampler == "qmc":
        return optuna.samplers.QMCSampler(seed=settings.seed)
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
    )


def _pruner(settings: Settings) -> optuna.pruners.BasePruner:
    shortest = settings.cycle_length
    if settings.pruner == "none":
        return optuna.pruners.NopPruner()
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=shortest)
    if settings.pruner == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=shortest, reduction_factor=ETA)
    return optuna.pruners.HyperbandPruner(min_resource=shortest, max_resource=settings.n_epochs, reduction_factor=ETA)
