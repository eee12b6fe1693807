from dataclasses import replace
from pathlib import Path

from conftest import write_digits
from small_trials import trial_plan

from autotune.data.split import VALIDATION
from autotune.search.plan import build_context
from autotune.study.finals.race import RacePlanner
from autotune.study.storage.rows import COMPLETE, TrialRow
from autotune.training.params import Params

PARAMS = Params(
    backbone="efficientnet_lite0", depth=0, pixels=32, lr_low=1e-5, lr_high=1e-3, cycle="one-cycle", augment=0.5,
    class_weight=0.0, optimizer="adamw", batch_size=32, weight_decay=0.0, dropout=0.0, label_smoothing=0.0,
)  # fmt: skip


def row(number: int, depth: int, value: float, backbone: str = PARAMS.backbone) -> TrialRow:
    params = replace(PARAMS, depth=depth, backbone=backbone)
    return TrialRow(number, COMPLETE, params, "done", "", value, 0.1, best_epoch=12, epochs=12)


def test_the_reference_is_a_warm_start_of_the_best_backbone(tmp_path: Path) -> None:
    plan = trial_plan(write_digits(tmp_path / "digits"), backbone=["efficientnet_lite0"], pixels=[32])
    (second,) = plan.selection.candidates
    first = replace(second, backbone=replace(second.backbone, name="better"))
    plan = replace(plan, selection=replace(plan.selection, candidates=(first, second)))
    best, other = first.backbone.name, second.backbone.name
    planner = RacePlanner(plan, build_context(plan), warm_starts={1, 2, 3})
    known = [row(1, 1, 0.9, other), row(2, 0, 0.8, best), row(3, 1, 0.7, best), row(4, 2, 0.6, best)]
    race = planner.race(known, [*known, *(row(number, 0, 0.5, best) for number in range(5, 51))])
    assert race
    assert [one.number for one in race.finalists] == [3, 1, 2, 4]


def test_an_expensive_reference_must_be_better_by_several_pictures(tmp_path: Path) -> None:
    plan = trial_plan(write_digits(tmp_path / "digits"), backbone=["efficientnet_lite0"], pixels=[32], depth=[0, 1, 3])
    planner = RacePlanner(plan, build_context(plan), warm_starts={1, 3})
    picture = 1 / len(plan.split.part(VALIDATION))

    def reference(lead: float) -> int | None:
        trials = sorted([row(3, 3, 0.5 + lead * picture), row(1, 1, 0.5)], key=lambda one: one.rank)
        race = planner.race(trials, [*trials, *(row(number, 0, 0.1) for number in range(4, 51))])
        assert race
        return race.reference

    assert (reference(0), reference(3.9), reference(4.9)) == (1, 1, 3)


def test_after_cheap_trials_the_expensive_warm_start_is_still_a_finalist(tmp_path: Path) -> None:
    plan = trial_plan(write_digits(tmp_path / "digits"), backbone=["efficientnet_lite0"], pixels=[32])
    deepest = max(plan.selection.candidates[0].depths)
    planner = RacePlanner(plan, build_context(plan), warm_starts={1})
    trials = [row(1, deepest, 0.9), *(row(number, 0, 0.8) for number in range(2, 51))]
    race = planner.race(trials, trials)
    assert race
    assert race.reference == 1
    assert race.finalists[0].number == 1
    few = [row(1, deepest, 0.9), row(2, 0, 0.8)]
    cheap = planner.race(few, few)
    assert not cheap or deepest not in {one.params.depth for one in cheap.finalists}


def test_a_trial_that_is_too_expensive_for_all_folds_duels_if_it_is_clearly_the_best(tmp_path: Path) -> None:
    plan = trial_plan(write_digits(tmp_path / "digits"), backbone=["efficientnet_lite0"], pixels=[32])
    deepest = max(plan.selection.candidates[0].depths)
    planner = RacePlanner(plan, build_context(plan), warm_starts=set())

    def finalists(value: float, n_deep: int) -> tuple[list[int], int] | None:
        trials = [row(1, deepest, value), row(2, 0, 0.5), *(row(3 + number, deepest, 0.4) for number in range(n_deep))]
        race = planner.race(trials, trials)
        if race is None:
            return None
        assert race.is_duel == (race.affordable != race.finalists)
        return [one.number for one in race.finalists], race.n_second

    assert finalists(1.0, 3) is None  # the work of these trials allows no duel, but the lead is clear: it is refitted
    assert finalists(0.64, 3) == ([2], 1)
    assert finalists(1.0, 4) == ([2, 1], 0)
    assert finalists(0.55, 4) == ([2], 1)  # one or two of 30 validation pictures
    assert finalists(1.0, 10) == ([1, 2], 2)
