import numpy as np
import pytest
import torch
from sklearn import metrics

from autotune.training.metrics import WORST_LOG_LOSS, log_loss, score, score_interval, smooth, wilson_interval

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


def test_the_bootstrap_interval_contains_the_score_and_is_reproducible() -> None:
    found = score_interval("macro_f1", LABELS, PREDICTED, 4)
    assert found == score_interval("macro_f1", LABELS, PREDICTED, 4)
    assert found[0] < score("macro_f1", LABELS, PREDICTED, 4) < found[1]


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


def test_every_bootstrap_sample_contains_all_classes() -> None:
    labels = np.repeat(np.arange(100), 2)
    assert score_interval("macro_f1", labels, labels, 100) == (1.0, 1.0)
