import numpy as np
import pytest
import torch
from sklearn import metrics

from autotune.training.metrics import (
    METRICS,
    WORST_LOG_LOSS,
    log_loss,
    paired_interval,
    score,
    score_interval,
    smooth,
    visit_interval,
    wilson_interval,
)

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 200)
PREDICTED = np.where(RNG.random(200) < 0.7, LABELS, RNG.integers(0, 4, 200))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("accuracy", metrics.accuracy_score),
        ("balanced_accuracy", metrics.balanced_accuracy_score),
        ("macro_f1", lambda y, s: metrics.f1_score(y, s, average="macro")),
    ],
)
def test_scores_match_scikit_learn(name: str, reference: object) -> None:
    assert score(name, LABELS, PREDICTED, 4) == pytest.approx(reference(LABELS, PREDICTED))  # type: ignore[operator]


def test_a_class_without_pictures_is_not_averaged_as_in_scikit_learn() -> None:
    labels, predicted = np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0])
    f1 = metrics.f1_score(labels, predicted, labels=[0, 2], average="macro")
    recall = metrics.recall_score(labels, predicted, labels=[0, 2], average="macro")
    assert score("macro_f1", labels, predicted, 4) == pytest.approx(f1)
    assert score("balanced_accuracy", labels, predicted, 4) == pytest.approx(recall)


def test_balanced_accuracy_weights_classes_equally() -> None:
    labels, predicted = np.array([0] * 98 + [1, 1]), np.zeros(100, dtype=int)
    assert score("accuracy", labels, predicted, 2) == 0.98
    assert score("balanced_accuracy", labels, predicted, 2) == 0.5


def test_the_wilson_interval_matches_the_literature() -> None:
    low, high = wilson_interval(81, 263)  # Newcombe 1998, table I, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_a_perfect_score_still_has_an_interval() -> None:
    low, high = wilson_interval(180, 180)
    assert 0.975 < low < 0.985
    assert high == pytest.approx(1.0)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_the_interval_of_a_mean_over_classes_contains_the_score(metric: str) -> None:
    low, high = score_interval(metric, LABELS, PREDICTED, 4)
    assert 0 < low < score(metric, LABELS, PREDICTED, 4) < high < 1


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_in_classes_of_the_same_size_it_is_nearly_that_of_the_accuracy(metric: str) -> None:
    labels = np.repeat([0, 1], 100)
    predictions = np.where(np.arange(200) % 10 == 0, 1 - labels, labels)
    found = score_interval(metric, labels, predictions, 2)
    assert found == pytest.approx(wilson_interval(180, 200), abs=0.005)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_three_pictures_of_a_rare_class_say_little_even_if_all_are_right(metric: str) -> None:
    labels = np.repeat([0, 1], [3, 252])
    low, high = score_interval(metric, labels, labels, 2)
    assert 0.5 < low < 0.9
    assert high == 1
    visits = [str(place % 40) for place in range(255)]
    assert visit_interval(metric, labels, labels, 2, visits)[0] <= low


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_the_interval_of_a_mean_over_classes_covers_in_simulations(metric: str) -> None:
    """Of 200 draws of a rare and a common class, the 95 % interval covers the true score in 180 or more."""
    rng, sizes, recalls = np.random.default_rng(0), np.array([9, 430]), np.array([0.85, 0.98])
    labels = np.repeat([0, 1], sizes)
    precise = sizes * recalls / (sizes * recalls + (sizes * (1 - recalls))[::-1])
    true = recalls.mean() if metric == "balanced_accuracy" else (2 / (1 / recalls + 1 / precise)).mean()
    covered = 0
    for _ in range(200):
        right = rng.random(len(labels)) < recalls[labels]
        low, high = score_interval(metric, labels, np.where(right, labels, 1 - labels), 2)
        covered += low <= true <= high
    assert covered >= 180


def test_log_loss_matches_scikit_learn() -> None:
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 3
    assert log_loss(logits, labels) == pytest.approx(metrics.log_loss(labels, logits.double().softmax(1)), abs=1e-6)


def test_smoothing_starts_without_bias() -> None:
    assert smooth([5.0, 5.0, 5.0]) == pytest.approx([5.0, 5.0, 5.0])
    assert smooth([0.0, 1.0]) == pytest.approx([0.0, 0.2 / 0.36])


def test_a_diverged_network_has_the_worst_log_loss() -> None:
    logits = torch.tensor([[float("nan"), 0.0], [0.0, 1.0]])
    assert log_loss(logits, torch.tensor([0, 1])) == WORST_LOG_LOSS


def test_a_class_without_pictures_does_not_count() -> None:
    labels, predictions = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    for metric in ("balanced_accuracy", "macro_f1"):
        low, high = score_interval(metric, labels, predictions, 4)
        assert low < score(metric, labels, predictions, 4) < high


def test_intervals_of_visits_are_wider_and_contain_the_score() -> None:
    rng = np.random.default_rng(0)
    visits = [f"visit {i // 8}" for i in range(160)]
    right = np.repeat(rng.random(20) < 0.8, 8)
    labels = rng.integers(0, 3, 160)
    predictions = np.where(right, labels, (labels + 1) % 3)
    for metric in METRICS:
        value = score(metric, labels, predictions, 3)
        low, high = visit_interval(metric, labels, predictions, 3, visits)
        plain = score_interval(metric, labels, predictions, 3)
        assert low <= value <= high
        assert high - low > 1.5 * (plain[1] - plain[0]), metric
    worse = np.where(right, labels, -1)
    pair = paired_interval("accuracy", labels, labels, worse, 3, visits)
    plain_pair = paired_interval("accuracy", labels, labels, worse, 3)
    assert pair[1] - pair[0] > 1.5 * (plain_pair[1] - plain_pair[0])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_interval_of_visits_that_are_all_right_or_all_wrong_has_a_width(share: float) -> None:
    labels = np.zeros(12, dtype=np.int64)
    predictions = labels if share else labels + 1
    low, high = visit_interval("accuracy", labels, predictions, 2, [str(i // 3) for i in range(12)])
    assert low <= share <= high
    assert high - low > 0.2


def test_the_interval_of_visits_covers_in_simulations() -> None:
    """Of 200 draws of 15 visits whose accuracies vary, the 95 % interval covers the mean in 180 or more."""
    rng = np.random.default_rng(0)
    covered = plain_covered = 0
    for _ in range(200):
        shares = rng.beta(6.0, 1.5, 15)
        right = np.concatenate([rng.random(6) < share for share in shares])
        labels = np.zeros(len(right), dtype=np.int64)
        predictions = np.where(right, 0, 1)
        low, high = visit_interval("accuracy", labels, predictions, 2, [str(i // 6) for i in range(len(right))])
        covered += low <= 0.8 <= high
        plain_low, plain_high = score_interval("accuracy", labels, predictions, 2)
        plain_covered += plain_low <= 0.8 <= plain_high
    assert covered >= 180 > plain_covered
