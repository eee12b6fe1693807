"""Hyperparameter importance: the share of the difference between trials that each explains, by Optuna's fANOVA."""

from __future__ import annotations

import math
import re
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.report.charts import CATEGORIES, LINEAR, LOG, STEPS, Point
from autotune.study.storage.rows import COMPLETE, TrialRow

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

FEWEST = 15  # complete trials below which no importance is computed: of fewer, it is mostly chance
WORDS = {
    "lr_high": "highest learning rate",
    "lr_low": "lowest learning rate",
    "cycle": "learning rate schedule",
    "augment": "augmentation",
    "class_weight": "weight of rare classes",
    "batch_size": "batch size",
    "weight_decay": "weight decay",
    "label_smoothing": "label smoothing",
    "depth": "unfrozen stages",
    "pixels": "picture size, pixels",
}


@dataclass(frozen=True)
class HyperparameterImportance:
    """One hyperparameter. importance: its share of the total. categories: empty if its values are numbers."""

    name: str
    words: str
    importance: float
    scale: str
    categories: tuple[str, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Importances:
    """Hyperparameters, most important first, or the reason why there are none. n_trials: complete trials compared."""

    hyperparameters: tuple[HyperparameterImportance, ...]
    n_trials: int
    reason: str = ""


class _NotComputedError(Exception):
    """The reason why importances cannot be computed."""


def compute_importances(file: Path, rows: Sequence[TrialRow], labels: Mapping[str, str]) -> Importances:
    """Compute the importance of every hyperparameter.

    file: trials.db, for the search spaces. rows: the study's trials; values are taken from them, because those in
    trials.db include a penalty for the cost, and its learning rates are not those that trials were trained with.
    labels: of backbones, by name.
    """
    rows = [row for row in rows if not row.params.is_recipe]  # its values are outside the ranges
    values = [row.value for row in rows if row.state == COMPLETE and row.value is not None]
    try:
        if len(values) < FEWEST:
            raise _NotComputedError(
                f"Too few complete trials to compare hyperparameters: {len(values)} of at least {FEWEST}. "
                "The command at the end of this page continues the search, with more --trials."
            )
        if len(set(values)) == 1:
            raise _NotComputedError(
                f"All {len(values)} complete trials have the same value, so there is no difference to explain."
            )
        study = _opened(file)
        measured = {row.number: row for row in rows if row.value is not None}
        shares = _importances(study, {number: row.value or 0.0 for number, row in measured.items()})
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number in measured]
        found = tuple(_importance(name, share, trials, measured, labels) for name, share in shares.items())
    except _NotComputedError as error:
        return Importances((), len(values), str(error))
    return Importances(found, len(values))


def _opened(file: Path) -> Study:
    """Open the Optuna study read-only, which also works while a search writes to it."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from autotune.search.optuna_study import STUDY_NAME

    if not file.is_file():
        raise _NotComputedError(f"{file.name}, which contains the hyperparameters, does not exist.")
    place = f"{file.resolve().as_uri()}?mode=ro"
    try:
        storage = optuna.storages.RDBStorage(
            "sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(place, uri=True, check_same_thread=False)}
        )
        return _without_recipe(optuna.load_study(study_name=STUDY_NAME, storage=storage))
    except (KeyError, RuntimeError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise _NotComputedError(f"{file.name}, which contains the hyperparameters, cannot be read.") from error


def _without_recipe(study: Study) -> Study:
    """Return a study without the recipe, whose hyperparameters Optuna does not know."""
    import optuna

    from autotune.search.optuna_study import RECIPE

    trials = study.get_trials(deepcopy=False)
    if not any(RECIPE in trial.user_attrs for trial in trials):
        return study
    found = optuna.create_study(direction="maximize")
    found.add_trials([trial for trial in trials if RECIPE not in trial.user_attrs])
    return found


def _importances(study: Study, values: Mapping[int, float]) -> dict[str, float]:
    """Compute the importances. values: scores by trial number; the study's own include the penalty for the cost."""
    import optuna

    def score(trial: FrozenTrial) -> float:
        return values.get(trial.number, math.nan)  # a trial that ended after the record was read

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about zero variance, which is reported below
        # Explicit and seeded: the default evaluator differs between versions of Optuna and is random.
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, target=score)
    if not found:
        raise _NotComputedError("All trials have the same hyperparameters.")
    if len(found) > 1 and len(set(found.values())) == 1:  # Optuna's result if no importance can be computed
        raise _NotComputedError("The complete trials differ too little to compare hyperparameters.")
    return {name: float(share) for name, share in found.items()}


def _importance(name: str, share: float, trials: list[FrozenTrial], rows: Mapping[int, TrialRow],
                labels: Mapping[str, str]) -> HyperparameterImportance:  # fmt: skip
    some = [trial for trial in trials if name in trial.params]
    distribution = some[0].distributions[name]
    offered = tuple(getattr(distribution, "choices", ()))
    categories = () if all(isinstance(one, (int, float)) for one in offered) else offered
    points = []
    for trial in some:
        row = rows[trial.number]
        chosen: Any = getattr(row.params, name.partition("[")[0])
        points.append(Point(float(categories.index(chosen) if categories else chosen), row.value or 0.0, row.state))
    shown = tuple(labels.get(one, one) if name == "backbone" else str(one) for one in categories)
    scale = _scale(distribution, categories)
    return HyperparameterImportance(name, _words(name, labels), share, scale, shown, tuple(points))


def _scale(distribution: Any, categories: tuple[Any, ...]) -> str:
    if categories:
        return CATEGORIES
    if getattr(distribution, "log", False):
        return LOG
    return LINEAR if getattr(distribution, "step", 1) is None else STEPS  # categories have no `step`


def _words(name: str, labels: Mapping[str, str]) -> str:
    """Return a hyperparameter's name in words; `depth[NAME]` and `pixels[NAME]` belong to one backbone."""
    found = re.fullmatch(r"(\w+)\[(.+)\]", name)
    if not found:
        return WORDS.get(name, name)
    kind, backbone = found.groups()
    suffix = f", {labels.get(backbone, backbone)}" if len(labels) > 1 else ""
    return WORDS.get(kind, kind) + suffix
