from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_digits
from small_trials import trial_plan

from autotune.search.cost_penalty import CostPenalty, cost_penalty
from autotune.training.params import Params

PARAMS = Params(
    backbone="net", depth=0, pixels=64, lr_low=1e-5, lr_high=1e-3, cycle="one-cycle", augment=0.5, class_weight=0.0,
    optimizer="adamw", batch_size=32, weight_decay=0.0, dropout=0.0, label_smoothing=0.0,
)  # fmt: skip
PENALTY = CostPenalty({("net", 64, 0): 1e6, ("net", 64, 1): 1e7, ("net", 64, 2): 1e8}, n_validation=96)


def test_the_most_expensive_trial_loses_five_pictures() -> None:
    assert PENALTY.applied(0.8, replace(PARAMS, depth=2)) == pytest.approx(0.8 - 5 / 96)


def test_cheaper_trials_lose_their_share_of_it() -> None:
    lost = [0.8 - PENALTY.applied(0.8, replace(PARAMS, depth=depth)) for depth in (0, 1, 2)]
    assert lost[1] == pytest.approx(lost[2] / 10)
    assert lost[0] == pytest.approx(lost[2] / 100)


def test_a_network_without_counted_operations_has_no_penalty() -> None:
    assert CostPenalty({("net", 64, 0): 0.0}, n_validation=96).applied(0.8, PARAMS) == 0.8


def test_the_operations_of_a_plan_grow_with_depth(tmp_path: Path) -> None:
    plan = trial_plan(write_digits(tmp_path / "digits"), backbone=["efficientnet_lite0"], pixels=[32])
    penalty = cost_penalty(plan)
    costs = [penalty.operations["efficientnet_lite0", 32, depth] for depth in plan.selection.candidates[0].depths]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs) > 2
