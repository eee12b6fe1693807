import gc
from collections.abc import Iterator

import pytest

from autotune.garbage import THRESHOLDS, collected_less_often


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_garbage_collection_stays_enabled_and_remaining_objects_are_frozen_at_the_end() -> None:
    with collected_less_often():
        assert gc.get_threshold() == THRESHOLDS
        assert gc.isenabled()
        left: list[object] = []
        assert any(one is left for one in gc.get_objects())
    assert not any(one is left for one in gc.get_objects())
