from dataclasses import replace

from autotune import work
from autotune.anatomy import Anatomy
from autotune.work import Share

NET = Anatomy(64, (10, 10, 10), (10_000_000, 100_000_000, 1_000_000), ((32, 32, 32), (64, 8, 8), (100,)))
STUDY = Share(n_train=1000, n_rest=100, epochs=6, trials=12, augmented=True)


def test_a_bank_that_many_trials_share_pays() -> None:
    assert work.cut(NET, 2, STUDY, "cpu").pays


def test_one_short_trial_pays_for_no_bank() -> None:
    short = replace(STUDY, epochs=1, trials=1)
    assert not work.cut(NET, 2, short, "cpu").pays
    assert work.kept([work.cut(NET, number, short, "cpu") for number in (1, 2, 3)], 3) == (3,)


def test_rows_that_cost_more_than_computing_them_are_not_kept() -> None:
    assert not work.cut(NET, 1, STUDY, "cuda:0").pays  # 64 KB for ten million operations
    assert work.cut(NET, 3, STUDY, "cuda:0").pays


def test_a_bank_over_8_gib_is_not_made() -> None:
    large = work.cut(NET, 2, replace(STUDY, n_train=1_000_000), "cpu")
    assert large.n_bytes > work.MOST_BYTES
    assert large.banked < large.fresh
    assert not large.pays


def test_the_two_costs_are_counted() -> None:
    one = work.cut(NET, 3, Share(n_train=10, n_rest=2, epochs=5, trials=2, augmented=False), "cpu")
    assert one.fresh == 111_000_000 * 2 * 3 * (10 + 2 * 2)
    assert one.n_bytes == 200 * 12
    assert one.banked == 111_000_000 * 12 + 200 * 200 * (12 + 84)
