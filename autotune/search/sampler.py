"""Samplers and pruners, by their names in study.toml. To add one, add an entry; there is no other list.

The builders import Optuna. This module does not, because the settings import it for the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from autotune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from autotune.search.settings import Settings

ETA = 3  # Hyperband's reduction factor
STARTUP_TRIALS = 5


@dataclass(frozen=True)
class Sampler:
    """label: description for the docs. build: builds it from the settings and the seed of one trial."""

    label: str
    build: Callable[[Settings, int], BaseSampler]


@dataclass(frozen=True)
class Pruner:
    """label: description for the docs. build: builds it from settings with known epochs."""

    label: str
    build: Callable[[Settings], BasePruner]


def _tpe(settings: Settings, seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS)


def _random(settings: Settings, seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def _gp(settings: Settings, seed: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)


def _qmc(settings: Settings, seed: int) -> BaseSampler:
    from optuna.samplers import QMCSampler

    return QMCSampler(seed=settings.seed)  # one sequence for the whole study


def _hyperband(settings: Settings) -> BasePruner:
    from optuna.pruners import HyperbandPruner

    return HyperbandPruner(min_resource=settings.cycle_length, max_resource=settings.n_epochs, reduction_factor=ETA)


def _successive_halving(settings: Settings) -> BasePruner:
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(min_resource=settings.cycle_length, reduction_factor=ETA)


def _median(settings: Settings) -> BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(n_warmup_steps=settings.cycle_length)


def _none(settings: Settings) -> BasePruner:
    from optuna.pruners import NopPruner

    return NopPruner()


SAMPLERS = {
    "tpe": Sampler("tree-structured Parzen estimator, multivariate", _tpe),
    "random": Sampler("independent random values", _random),
    "gp": Sampler("Bayesian optimization with a Gaussian process", _gp),
    "qmc": Sampler("quasi-Monte Carlo, a Sobol sequence", _qmc),
}
PRUNERS = {
    "hyperband": Pruner("successive halving from several budgets", _hyperband),
    "successive_halving": Pruner("asynchronous successive halving", _successive_halving),
    "median": Pruner("worse than the median of earlier trials", _median),
    "none": Pruner("no pruning", _none),
}

Entry = TypeVar("Entry")


def build_sampler(settings: Settings, seed: int) -> BaseSampler:
    """Build the sampler for one trial. Raises ConfigError for an unknown name."""
    return _find("sampler", settings.sampler, SAMPLERS).build(settings, seed)


def build_pruner(settings: Settings) -> BasePruner:
    """Build the pruner of a study. Raises ConfigError for an unknown name."""
    return _find("pruner", settings.pruner, PRUNERS).build(settings)


def _find(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    if name not in table:
        raise ConfigError(f"No {kind} named {name!r}.", did_you_mean(name, table))
    return table[name]
