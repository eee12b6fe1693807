"""The Optuna study of a search: it proposes the next trial and prunes."""

from __future__ import annotations

import sqlite3
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from autotune.errors import StudyError
from autotune.search.sampler import build_pruner, build_sampler
from autotune.search.settings import Settings
from autotune.search.space import BackboneOptions, suggest
from autotune.search.warm_start import first_trials, repeated
from autotune.training.params import Params

if TYPE_CHECKING:
    from autotune.training.outcome import Epoch

# Hyperband hashes the study's name to choose a trial's bracket, so the name must be the same in every run.
STUDY_NAME = "autotune"
WARM_START, JOINT_DRAW, RECIPE = "warm_start", "joint_draw", "recipe"  # attributes of trials

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@contextmanager
def storage_errors(file: Path) -> Iterator[None]:
    """Raise StudyError if Optuna cannot read or write its database in this context."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise StudyError(
            f"{file} cannot be used: {getattr(cause, 'orig', None) or cause}.",
            "Free some disk space, then run the same command again to resume.",
        ) from error


class OptunaStudy:
    """One Optuna study with ask, report and tell, used only by this process. recipe: the first trial, if any."""

    def __init__(self, file: Path, settings: Settings, arms: tuple[BackboneOptions, ...],
                 recipe: Params | None = None) -> None:  # fmt: skip
        self._settings = settings
        self._arms = arms
        self._recipe = recipe
        self._file = file
        self._connections: list[sqlite3.Connection] = []
        self._storage = RDBStorage(f"sqlite:///{file}", engine_kwargs={"creator": self._connect})
        self._study = optuna.create_study(
            storage=self._storage,
            study_name=STUDY_NAME,
            direction="maximize",
            pruner=build_pruner(settings),
            load_if_exists=True,
        )
        self._study.set_metric_names([f"{settings.metric} minus a penalty for the cost"])  # for the dashboard

    def _connect(self) -> sqlite3.Connection:
        self._connections.append(sqlite3.connect(self._file, check_same_thread=False))
        return self._connections[-1]

    def close(self) -> None:
        """Release the database. A second Ctrl-C during an operation can leave a transaction open, which locks the
        database for as long as its traceback lives: in a notebook, until the next error.
        """
        for connection in self._connections:
            with suppress(sqlite3.Error):  # it is closed
                connection.rollback()
        self._storage.engine.dispose()

    def enqueue(self, arms: Sequence[BackboneOptions], earlier: Sequence[Params] = ()) -> None:
        """Enqueue the recipe and the warm start trials, each once. arms: best backbone first. earlier: the choices of
        an earlier study, which come before the usual ones.
        """
        if self._recipe and not any(RECIPE in trial.user_attrs for trial in self._trials()):
            self._study.enqueue_trial({}, user_attrs={RECIPE: True})
        # Not of the warm start: they were chosen on pictures that are in the validation set again.
        for values in repeated(self._settings.space, arms, earlier):
            self._study.enqueue_trial(values, skip_if_exists=True)
        for values in first_trials(self._settings.space, tuple(arms)):
            self._study.enqueue_trial(values, user_attrs={WARM_START: True}, skip_if_exists=True)

    def warm_starts(self) -> set[int]:
        """Return the numbers of the warm start trials; none in a study of an earlier version."""
        return {trial.number for trial in self._trials() if WARM_START in trial.user_attrs}

    def numbers(self) -> set[int]:
        """Return the numbers of all trials, also of those that wait or run."""
        return {trial.number for trial in self._trials()}

    def told(self) -> set[int]:
        """Return the numbers of the finished trials."""
        return {trial.number for trial in self._trials() if trial.state.is_finished()}

    def unfinished(self) -> list[Trial]:
        """Return the trials that a killed driver left running, in order. They keep their number, Params and seed."""
        running = [trial.number for trial in self._trials() if trial.state == TrialState.RUNNING]
        return [self._reopen(number) for number in sorted(running)]

    def n_finished(self) -> int:
        return len(self.told())

    def ask(self) -> Trial:
        """Return the next trial: an enqueued one, or a new one. Its randomness depends on (seed, number)."""
        waiting = [trial.number for trial in self._trials() if trial.state == TrialState.WAITING]
        self._seed(min(waiting) if waiting else len(self._trials()))
        trial = self._study.ask()
        values = trial.relative_params  # first: some versions of Optuna draw only here
        space = {name: distribution_to_json(one) for name, one in (trial.relative_search_space or {}).items()}
        trial.set_user_attr(JOINT_DRAW, {"values": values, "space": space})
        return trial

    def params(self, trial: Trial) -> Params:
        """Return a trial's Params; missing values are drawn.

        Each has a seed of its own: the driver may be killed between two draws, and the rest must not depend on it. The
        recipe's values are outside the ranges, and unknown to the sampler.
        """
        if RECIPE in trial.user_attrs:
            assert self._recipe
            return self._recipe

        def seed(name: str) -> None:
            self._seed(trial.number, name)

        return suggest(trial, self._settings.space, self._arms, seed)

    def epochs(self, params: Params) -> int:
        """Return the most epochs of a trial."""
        return sum(phase.epochs for phase in params.phases) or self._settings.n_epochs

    def should_prune(self, trial: Trial, row: Epoch) -> bool:
        """Report the end of a cycle, and return whether to prune. The last epoch never prunes, nor does a recipe.

        An epoch that was reported before a restart gets the same decision.
        """
        if RECIPE in trial.user_attrs or not row.cycle_end or row.number >= self._settings.n_epochs:
            return False
        if row.number in self._trials()[trial.number].intermediate_values:
            return bool(trial.user_attrs.get("pruned_at") == row.number)
        trial.report(row.validation, row.number)
        pruned = trial.should_prune()
        if pruned:
            trial.set_user_attr("pruned_at", row.number)
        return pruned

    def tell(self, trial: Trial, value: float | None, state: TrialState) -> None:
        self._study.tell(trial, value if state == TrialState.COMPLETE else None, state, skip_if_finished=True)

    def _reopen(self, number: int) -> Trial:
        """Return a running trial by its number. `Study` has no method for it, so its id is read from the storage.

        It gets the values that the sampler drew jointly when it was asked for: drawn again, they would depend on those
        that have been suggested since.
        """
        self._seed(number)  # first: the constructor may call the sampler
        if drawn := self._trials()[number].user_attrs.get(JOINT_DRAW):
            space = {name: json_to_distribution(one) for name, one in drawn["space"].items()}
            self._study.sampler = _EarlierDraw(space, drawn["values"])
        study = self._storage.get_study_id_from_name(STUDY_NAME)
        trial = Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study, number))
        _ = trial.relative_params  # drawn now, by this sampler
        return trial

    def _trials(self) -> list[FrozenTrial]:
        """Return all trials, in order."""
        return self._study.get_trials(deepcopy=False)

    def _seed(self, number: int, name: str = "") -> None:
        """Seed the sampler by the number of a trial and the name of a hyperparameter: a draw must not depend on earlier
        draws of this process.
        """
        seed = self._settings.seed * 1_000_003 + number + zlib.crc32(name.encode())
        self._study.sampler = build_sampler(self._settings, seed % 2**32)


class _EarlierDraw(BaseSampler):
    """A sampler that only repeats what another one drew jointly for a trial. space, values: by hyperparameter."""

    def __init__(self, space: dict[str, BaseDistribution], values: dict[str, Any]) -> None:
        self._space = space
        self._values = values

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._values

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise NotImplementedError
