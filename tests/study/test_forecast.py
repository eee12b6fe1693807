"""The estimate of the time left follows what finished trials took."""

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_digits
from small_trials import trial_plan

from autotune.search.plan import build_context
from autotune.search.speed import MachineSpeed
from autotune.study.finals import race
from autotune.study.finals.race import RacePlanner
from autotune.study.storage.rows import COMPLETE, FoldRow, TrialRow
from autotune.study.timing.forecast import Forecast, UnderWay
from autotune.training.context import WHOLE_POOL
from autotune.training.params import Params

KEY = ("efficientnet_lite0", 64)
PARAMS = Params(*KEY[:1], 1, 64, 1e-5, 1e-3, "one-cycle", 0.0, 0.0, "adamw", 32, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("forecast") / "digits", classes=3, each=40)


def forecast(digits: Path, n_workers: int = 1, warm_starts: tuple[int, ...] = ()) -> Forecast:
    """Return a forecast at a made-up speed: 10 ms per stage and picture."""
    plan = trial_plan(digits, backbone=[KEY[0]], pixels=[64], depth=[0, 1], epochs=5)
    context = build_context(plan)
    return Forecast(plan, context, RacePlanner(plan, context, warm_starts), {KEY: MachineSpeed((0.01,) * 9)}, n_workers)


def trials(n: int, seconds: float) -> list[TrialRow]:
    row = TrialRow(
        0, COMPLETE, PARAMS, "done", "", value=0.9, log_loss=0.1, best_epoch=5, epochs=5, trained_parameters=1,
        seconds=seconds, cache_seconds=0.0,
    )  # fmt: skip
    return [replace(row, number=number) for number in range(n)]


def test_the_estimate_of_trials_is_learned_from_those_that_finished(digits: Path) -> None:
    ahead = forecast(digits)
    before = ahead.left(50, [], [], {}).trials / 50
    found = [ahead.left(100, trials(n, 10 * before), [], {}).trials / (100 - n) / before for n in (0, 2, 5, 20, 60)]
    assert found[0] == pytest.approx(1)
    assert found[0] < found[1] < found[2] < found[3] < 10
    assert found[3] > 6
    assert found[4] == pytest.approx(found[3])  # the latest ten


def test_the_trials_of_the_warm_start_are_not_typical_of_those_that_follow(digits: Path) -> None:
    slow, fast = trials(3, 100.0), [replace(row, number=3 + row.number) for row in trials(7, 1.0)]
    unknown = forecast(digits).left(100, [*slow, *fast], [], {}).trials
    known = forecast(digits, warm_starts=(0, 1, 2)).left(100, [*slow, *fast], [], {}).trials
    assert known < 0.6 * unknown


def test_a_running_trial_counts_with_its_own_hyperparameters_and_epochs(digits: Path) -> None:
    ahead, done = forecast(digits), trials(8, 1.0)
    head, tail = (ahead.left(9, done, [], {}, [UnderWay(replace(PARAMS, depth=depth), 0)]).trials for depth in (0, 1))
    assert head < ahead.left(9, done, [], {}).trials < tail
    rest = [ahead.left(9, done, [], {}, [UnderWay(PARAMS, epochs)]).trials for epochs in (0, 2, 4)]
    assert rest == sorted(rest, reverse=True)
    assert rest[-1] > 0


def test_the_finals_count_the_reference_in_both_rounds_and_the_final_model(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "FINALS_SHARE", 100.0)
    done = [replace(row, params=replace(PARAMS, depth=int(row.number == 3))) for row in trials(4, 1.0)]
    best, reference = (forecast(digits, warm_starts=warm).left(4, done, [], {}).networks for warm in ((), (3,)))
    assert reference > 1.5 * best


def test_missing_features_take_as_long_as_a_forward_pass(digits: Path) -> None:
    assert forecast(digits).left(5, [], [], {KEY: 100}).features == pytest.approx(100 * 9 * 0.01)
    assert forecast(digits).left(5, trials(5, 1.0), [], {KEY: 100}).features == 0


def test_finished_networks_of_the_finals_are_not_counted_again(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "FINALS_SHARE", 100.0)
    ahead, done = forecast(digits), trials(5, 1.0)
    whole = ahead.left(5, done, [], {})
    half = ahead.left(5, done, [FoldRow(0, 1, COMPLETE)] * 2, {})
    over = ahead.left(5, done, [FoldRow(0, 1, COMPLETE)] * 20, {})
    assert whole.networks > half.networks > over.networks == 0
    assert over.test < whole.test  # after finals, the validation pictures need no prediction
    assert whole.trials == 0


def test_a_duel_counts_two_networks_and_a_refit(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = [replace(row, params=replace(PARAMS, depth=int(row.number == 1))) for row in trials(2, 1.0)]
    duel = race.Race((done[0], done[1]), 0, None)
    monkeypatch.setattr(race.RacePlanner, "race", lambda *_, **__: duel)
    networks = [FoldRow(0, 1, COMPLETE), FoldRow(1, 1, COMPLETE), FoldRow(1, WHOLE_POOL, COMPLETE)]
    left = [forecast(digits).left(2, done, networks[:n], {}).networks for n in range(4)]
    assert left == sorted(left, reverse=True)
    assert left[1] - left[2] == pytest.approx(left[2])  # both of the expensive trial
    assert left[3] == 0


def test_trials_that_run_at_once_share_the_time(digits: Path) -> None:
    done = trials(20, 30.0)
    alone, shared = (forecast(digits, n).left(40, done, [], {}).trials for n in (1, 2))
    assert shared < 0.6 * alone
