import pytest

from autotune.text import duration, plural


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"),
        (5, "5 s"),
        (119.4, "119 s"),
        (119.6, "2 min"),
        (150, "2 min"),
        (59 * 60, "59 min"),
        (59.6 * 60, "1 h 0 min"),
        (60 * 60, "1 h 0 min"),
        (118 * 60, "1 h 58 min"),
        (119.8 * 60, "2 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_are_in_seconds_then_minutes_then_hours_and_minutes(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("n", "noun", "expected"),
    [
        (1, "picture", "1 picture"),
        (0, "picture", "0 pictures"),
        (2, "near-duplicate", "2 near-duplicates"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (3, "epoch", "3 epochs"),
        (3, "batch", "3 batches"),
        (2, "study", "2 studies"),
        (2, "day", "2 days"),
    ],
)
def test_counts_agree_with_their_noun(n: int, noun: str, expected: str) -> None:
    assert plural(n, noun) == expected
