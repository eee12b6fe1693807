"""How much of the difference between trials each choice explains, by Optuna's fANOVA."""

from __future__ import annotations

import re
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.report.charts import CATEGORIES, LINEAR, LOG, STEPS, Point
from autotune.study.rows import COMPLETE, TrialRow

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

FEWEST = 4  # complete trials below which nothing is compared
WORDS = {
    "lr_high": "highest learning rate",
    "lr_low": "lowest learning rate",
    "cycle": "learning-rate cycle",
    "augment": "augmentation",
    "class_weight": "weight of rare classes",
    "batch_size": "batch size",
    "weight_decay": "weight decay",
    "label_smoothing": "label smoothing",
    "depth": "trained stages",
    "pixels": "picture size, pixels",
}


@dataclass(frozen=True)
class ChoiceImportance:
    """One thing that the search chose. importance: its share of all. categories: empty where it is a number."""

    name: str
    words: str
    importance: float
    scale: str
    categories: tuple[str, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Importances:
    """Choices, the most important first; or why there are none. n_trials: complete ones that were compared."""

    choices: tuple[ChoiceImportance, ...]
    n_trials: int
    reason: str = ""


class _NoneError(Exception):
    """Why no choice can be weighed."""


def weigh_choices(file: Path, rows: Sequence[TrialRow], labels: Mapping[str, str]) -> Importances:
    """How much each choice explains, by the search spaces in trials.db; values are the record's, so that a learning
    rate is the one that a trial was trained with. rows: the study's trials. labels: of backbones, by name.
    """
    values = [row.value for row in rows if row.state == COMPLETE and row.value is not None]
    try:
        if len(values) < FEWEST:
            raise _NoneError(f"Too few trials are complete to compare choices: {len(values)}.")
        if len(set(values)) == 1:
            raise _NoneError(f"All {len(values)} complete trials have the same value, so no choice made a difference.")
        study = _opened(file)
        shares = _importances(study)
        measured = {row.number: row for row in rows if row.value is not None}
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.number in measured]
        found = tuple(_choice(name, share, trials, measured, labels) for name, share in shares.items())
    except _NoneError as error:
        return Importances((), len(values), str(error))
    return Importances(found, len(values))


def _opened(file: Path) -> Study:
    """The Optuna study, opened so that nothing can be written into it, also while the search does."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from autotune.search.optuna_study import STUDY_NAME

    if not file.is_file():
        raise _NoneError(f"{file.name}, which holds what was chosen, is not there.")
    place = f"{file.resolve().as_uri()}?mode=ro"
    try:
        storage = optuna.storages.RDBStorage(
            "sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(place, uri=True, check_same_thread=False)}
        )
        return optuna.load_study(study_name=STUDY_NAME, storage=storage)
    except (KeyError, RuntimeError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise _NoneError(f"{file.name}, which holds what was chosen, cannot be read now.") from error


def _importances(study: Study) -> dict[str, float]:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zero variance, which is said below
        # Named and seeded, because the default differs between versions of Optuna and draws at random.
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if not found:
        raise _NoneError("Nothing was left to choose: every trial had the same values.")
    if len(found) > 1 and len(set(found.values())) == 1:  # what Optuna says where it found none
        raise _NoneError("The complete trials differ too little to say which choice made the difference.")
    return {name: float(share) for name, share in found.items()}


def _choice(name: str, share: float, trials: list[FrozenTrial], rows: Mapping[int, TrialRow],
            labels: Mapping[str, str]) -> ChoiceImportance:  # fmt: skip
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
    return ChoiceImportance(name, _words(name, labels), share, _scale(distribution, categories), shown, tuple(points))


def _scale(distribution: Any, categories: tuple[Any, ...]) -> str:
    if categories:
        return CATEGORIES
    if getattr(distribution, "log", False):
        return LOG
    return LINEAR if getattr(distribution, "step", 1) is None else STEPS  # a choice among numbers has no step at all


def _words(name: str, labels: Mapping[str, str]) -> str:
    """A choice's name for people; `depth[NAME]` and `pixels[NAME]` belong to one backbone."""
    found = re.fullmatch(r"(\w+)\[(.+)\]", name)
    if not found:
        return WORDS.get(name, name)
    kind, backbone = found.groups()
    whose = f", {labels.get(backbone, backbone)}" if len(labels) > 1 else ""
    return WORDS.get(kind, kind) + whose
