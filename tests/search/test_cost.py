from dataclasses import replace

import pytest

from autotune.backbones.profile import StageProfile
from autotune.backbones.registry import discover
from autotune.cache import eviction
from autotune.search import cost
from autotune.search.candidates import select_backbones
from autotune.search.cost import MOST_BYTES, ExpectedShare, cut_cost, cuts_to_cache, epochs_for
from autotune.search.settings import read_settings

NET = StageProfile(64, (10, 10, 10), (10_000_000, 100_000_000, 1_000_000), ((32, 32, 32), (64, 8, 8), (100,)))
STUDY = ExpectedShare(n_train=1000, n_validation=100, epochs=6, trials=12, augmented=True)


def test_features_shared_by_many_trials_are_cached() -> None:
    assert cut_cost(NET, 2, STUDY, "cpu").pays


def test_for_one_short_trial_only_the_last_stage_is_cached() -> None:
    short = replace(STUDY, epochs=1, trials=1)
    assert not cut_cost(NET, 2, short, "cpu").pays
    assert cuts_to_cache([cut_cost(NET, number, short, "cpu") for number in (1, 2, 3)], 3) == (3,)


def test_rows_that_cost_more_than_computing_them_are_not_cached() -> None:
    assert not cut_cost(NET, 1, STUDY, "cuda:0").pays  # 64 KB for ten million operations
    assert cut_cost(NET, 3, STUDY, "cuda:0").pays


def test_features_over_8_gib_are_not_cached() -> None:
    large = cut_cost(NET, 2, replace(STUDY, n_train=1_000_000), "cpu")
    assert large.n_bytes > MOST_BYTES
    assert large.cached < large.uncached
    assert not large.pays


def test_a_gpu_with_more_memory_caches_more(monkeypatch: pytest.MonkeyPatch) -> None:
    large = replace(STUDY, n_train=300_000, trials=100)
    n_bytes = cut_cost(NET, 2, large, "cuda").n_bytes
    assert MOST_BYTES < n_bytes < 32 * 2**30
    monkeypatch.setattr(cost, "resident_bytes", lambda _: 32 * 2**30)
    assert cut_cost(NET, 2, large, "cuda").most_bytes == min(32 * 2**30, eviction.limit())
    monkeypatch.setattr(eviction, "limit", lambda: 10 * 2**30)
    assert cut_cost(NET, 2, large, "cuda").most_bytes == 10 * 2**30
    monkeypatch.setattr(eviction, "limit", lambda: 1)
    assert cut_cost(NET, 2, large, "cuda").most_bytes == MOST_BYTES


def test_cached_and_uncached_operations_are_counted() -> None:
    one = cut_cost(NET, 3, ExpectedShare(n_train=10, n_validation=2, epochs=5, trials=2, augmented=False), "cpu")
    assert one.uncached == 111_000_000 * 2 * 3 * (10 + 2 * 2)
    assert one.n_bytes == 200 * 12
    assert one.cached == 111_000_000 * 12 + 200 * 200 * (12 + 84)


def epochs(side: int, numbers: tuple[int, ...], device: str = "cpu", **flags: object) -> list[int]:
    """Return the default epochs for numbers of training pictures with this side in pixels."""
    settings = read_settings(None, {"backbone": ["efficientnet_lite0"], **flags})
    chosen = select_backbones(settings, discover(), None, device, side, print)
    return [epochs_for(chosen, n) for n in numbers]


def test_few_or_cheap_pictures_get_more_epochs() -> None:
    numbers = 100, 600, 1500, 2500, 100_000
    assert epochs(300, numbers) == [12, 10, 4, 4, 4]
    assert epochs(32, numbers) == [12, 10, 4, 4, 4]  # five stages may be unfrozen
    assert epochs(32, numbers, depth=[0, 3]) == [12, 12, 7, 4, 4]
    assert epochs(300, numbers, depth=[0]) == [12, 12, 12, 12, 12]
    assert epochs(300, numbers, "cuda") == [12, 12, 12, 12, 4]
