from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from autotune.report import charts, importance
from autotune.search.optuna_study import STUDY_NAME
from autotune.study.storage.rows import COMPLETE, TrialRow
from autotune.training.params import Params


def row(trial: optuna.trial.FrozenTrial) -> TrialRow:
    """Return the record's row of a trial, with ten times Optuna's learning rate, like the factor of an optimizer."""
    chosen = trial.params
    params = Params(
        backbone=chosen["backbone"], depth=chosen[f"depth[{chosen['backbone']}]"], pixels=64, lr_low=1e-6,
        lr_high=10 * chosen["lr_high"], cycle="one-cycle", augment=0.5, class_weight=0.0, optimizer="sgd",
        batch_size=chosen["batch_size"], weight_decay=0.0, dropout=chosen["dropout"], label_smoothing=0.0,
    )  # fmt: skip
    return TrialRow(trial.number, COMPLETE, params, "done", "", value=trial.value)


@pytest.fixture
def searched(tmp_path: Path) -> tuple[Path, list[TrialRow]]:
    """A real Optuna study whose value depends only on the learning rate."""
    file = tmp_path / "trials.db"
    trials = optuna.create_study(
        storage=f"sqlite:///{file}",
        study_name=STUDY_NAME,
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )

    def value(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr_high", 1e-4, 1e-2, log=True)
        backbone = trial.suggest_categorical("backbone", ["a", "b"])
        trial.suggest_categorical("batch_size", [32, 64])
        trial.suggest_float("dropout", 0, 0.5)
        trial.suggest_int(f"depth[{backbone}]", 0, 3)
        return 0.9 + 0.02 * float(np.log10(rate))

    trials.optimize(value, n_trials=20)
    return file, [row(one) for one in trials.get_trials()]


def test_the_most_important_hyperparameter_comes_first(searched: Any) -> None:
    file, rows = searched
    before = file.read_bytes()
    found = importance.compute_importances(file, rows, {"a": "Net A", "b": "Net B"})
    assert found.n_trials == 20
    assert {one.name for one in found.hyperparameters} == {"lr_high", "backbone", "batch_size", "dropout"}
    first = found.hyperparameters[0]
    assert (first.words, first.scale, first.categories) == ("highest learning rate", charts.LOG, ())
    assert first.importance > 0.5
    assert sum(one.importance for one in found.hyperparameters) == pytest.approx(1)
    by_name = {one.name: one for one in found.hyperparameters}
    assert by_name["backbone"].categories == ("Net A", "Net B")
    assert by_name["batch_size"].scale == charts.STEPS
    assert by_name["dropout"].scale == charts.LINEAR
    assert len(first.points) == 20
    assert [point.x for point in first.points] == [row.params.lr_high for row in rows]
    assert found == importance.compute_importances(file, rows, {"a": "Net A", "b": "Net B"})
    assert file.read_bytes() == before


def test_scores_are_taken_from_the_record(searched: Any) -> None:
    file, rows = searched
    other = [replace(row, value=0.5 + row.params.dropout) for row in rows]
    assert importance.compute_importances(file, other, {}).hyperparameters[0].name == "dropout"


def test_the_reason_is_given_if_importances_cannot_be_computed(searched: Any) -> None:
    file, rows = searched
    few = rows[:3]
    reason = importance.compute_importances(file, few, {}).reason
    assert reason.startswith(f"Too few complete trials to compare hyperparameters: 3 of at least {importance.FEWEST}. ")
    same = [replace(row, value=0.5) for row in rows]
    assert "All 20 complete trials have the same value" in importance.compute_importances(file, same, {}).reason
    assert "does not exist" in importance.compute_importances(file.with_name("none.db"), rows, {}).reason
    (file.parent / "broken.db").write_bytes(b"x" * 5000)
    assert "cannot be read" in importance.compute_importances(file.parent / "broken.db", rows, {}).reason
