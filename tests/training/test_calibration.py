import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from autotune.errors import ConfigError
from autotune.training import calibration


def sampled(n: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of a calibrated classifier times a temperature, and labels sampled from its probabilities."""
    random = torch.Generator().manual_seed(0)
    calibrated = 2 * torch.randn(n, 5, generator=random)
    labels = torch.multinomial(calibrated.softmax(1), 1, generator=random)[:, 0]
    return calibrated * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_restores_calibration(temperature: float) -> None:
    logits, labels = sampled(4000, temperature)
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.06)
    after = calibration.expected_calibration_error((logits / found).softmax(1), labels)
    assert after < 0.03
    assert temperature == 1.0 or after < calibration.expected_calibration_error(logits.softmax(1), labels)


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    logits, labels = sampled(999, 3.0)
    probabilities = logits.softmax(1)
    expected = multiclass_calibration_error(probabilities, labels, 5, calibration.N_BINS, "l1")
    assert calibration.expected_calibration_error(probabilities, labels) == pytest.approx(float(expected), abs=1e-6)


def test_with_all_predictions_correct_the_confidence_stays_below_1() -> None:
    labels = torch.arange(40) % 2
    logits = torch.nn.functional.one_hot(labels, 2) * 3.0
    temperature = calibration.fit_temperature(logits, labels)
    confidence = (logits / temperature).softmax(1).max(1).values
    assert confidence.numpy() == pytest.approx(41 / 42, abs=1e-3)


def test_the_calibration_error_of_one_bin_is_confidence_minus_accuracy() -> None:
    probabilities = torch.tensor([[0.9, 0.1]] * 10)
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert calibration.expected_calibration_error(probabilities, labels) == pytest.approx(0.2, abs=1e-6)


def test_a_threshold_is_the_lowest_that_reaches_the_precision() -> None:
    confidence = np.array([0.99, 0.95, 0.9, 0.8, 0.7, 0.6])
    correct = np.array([True, True, True, False, True, True])
    at = calibration.find_threshold(confidence, correct, 0.95)
    assert 0.8 < at < 0.9
    assert calibration.count_answered(confidence, correct, at) == calibration.AnsweredCount(n=6, answered=3, right=3)
    assert calibration.find_threshold(confidence, correct, 0.8) == pytest.approx(0.599)


def test_predictions_of_equal_confidence_pass_the_threshold_together() -> None:
    confidence = np.array([0.9, 0.9, 0.9, 0.5])
    correct = np.array([True, False, True, True])
    with pytest.raises(ConfigError, match=r"The best is 0\.750"):
        calibration.find_threshold(confidence, correct, 0.8)
