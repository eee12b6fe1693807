import numpy as np
import pytest
import torch

from autotune import calibration
from autotune.errors import ConfigError


def drawn(n: int, heat: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a calibrated classifier times `heat`, and labels drawn from what it believes."""
    random = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(n, 5, generator=random)
    labels = torch.multinomial(honest.softmax(1), 1, generator=random)[:, 0]
    return honest * heat, labels


@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_made_a_classifier_too_sure(heat: float) -> None:
    logits, labels = drawn(4000, heat)
    found = calibration.temperature(logits, labels)
    assert found == pytest.approx(heat, rel=0.06)
    after = calibration.expected_error((logits / found).softmax(1), labels)
    assert after < 0.03
    assert heat == 1.0 or after < calibration.expected_error(logits.softmax(1), labels)


def test_pictures_all_answered_rightly_do_not_ask_for_endless_certainty() -> None:
    labels = torch.arange(40) % 2
    logits = torch.nn.functional.one_hot(labels, 2) * 3.0
    heat = calibration.temperature(logits, labels)
    confidence = (logits / heat).softmax(1).max(1).values
    assert confidence.numpy() == pytest.approx(41 / 42, abs=1e-3)


def test_the_expected_error_of_one_bin_is_confidence_minus_accuracy() -> None:
    probabilities = torch.tensor([[0.9, 0.1]] * 10)
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert calibration.expected_error(probabilities, labels) == pytest.approx(0.2, abs=1e-6)


def test_a_threshold_is_the_lowest_that_reaches_the_precision() -> None:
    confidence = np.array([0.99, 0.95, 0.9, 0.8, 0.7, 0.6])
    right = np.array([True, True, True, False, True, True])
    at = calibration.threshold(confidence, right, 0.95)
    assert 0.8 < at < 0.9
    assert calibration.answered(confidence, right, at) == {"n": 6, "answered": 3, "right": 3}
    assert calibration.threshold(confidence, right, 0.8) == pytest.approx(0.599)


def test_ties_are_answered_together_or_not_at_all() -> None:
    confidence = np.array([0.9, 0.9, 0.9, 0.5])
    right = np.array([True, False, True, True])
    with pytest.raises(ConfigError, match=r"best reached is 0\.750"):
        calibration.threshold(confidence, right, 0.8)
