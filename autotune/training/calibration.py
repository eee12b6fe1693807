"""Calibration: temperature, expected calibration error, and the threshold below which predictions are unknown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.errors import ConfigError

N_BINS = 15
MARGIN = 1e-3  # the most that an exported model's probabilities may differ by
MAX_TEMPERATURE = 20.0  # the minimum is its inverse


@dataclass(frozen=True)
class AnsweredCount:
    """Counts at a threshold. answered: predictions at or above it, for n pictures. right: correct ones of these."""

    n: int
    answered: int
    right: int


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that calibrates the softmax of logits (N, C) best (Guo et al. 2017).

    The target of the true class is (N + 1) / (N + 2), not 1, and the others share the rest. Without this, the
    temperature goes to 0 if all predictions are correct (Platt 1999).
    """
    from scipy.optimize import minimize_scalar

    n, classes = logits.shape
    targets = torch.full((n, classes), 1 / (n + 2) / (classes - 1), dtype=torch.float64)
    targets[torch.arange(n), labels] = (n + 1) / (n + 2)
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return -float((targets * (logits / np.exp(log_temperature)).log_softmax(1)).sum())

    best = minimize_scalar(loss, bounds=(-np.log(MAX_TEMPERATURE), np.log(MAX_TEMPERATURE)), method="bounded")
    return float(np.exp(best.x))


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Expected calibration error, in [0, 1], of probabilities (N, C), with bins of equal width (Guo et al. 2017)."""
    confidence, predicted = probabilities.double().max(1)
    bins = (confidence * N_BINS).long().clamp_max(N_BINS - 1)
    # A bin's gap times its share of the predictions. torchmetrics has it too, but its import takes two seconds.
    too_sure = torch.bincount(bins, confidence - (predicted == labels).double(), N_BINS)
    return float(too_sure.abs().sum() / len(labels))


def find_threshold(confidence: NDArray[np.float64], correct: NDArray[np.bool_], precision: float) -> float:
    """Return the lowest threshold at which the predictions (N,) at or above it reach this precision.

    It is halfway to the next lower confidence, or just below the lowest one if all predictions reach the precision,
    because lower ones are not observed. Raises ConfigError if no threshold reaches it.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_ = confidence[order]
    reached = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    last_of_ties = np.append(sorted_[:-1] > sorted_[1:], True)
    good = np.flatnonzero(last_of_ties & (reached >= precision))
    if not len(good):
        best = reached[last_of_ties].max()
        raise ConfigError(
            f"No threshold reaches a precision of {precision:g} on held-out pictures. The best is {best:.3f}.",
            "Lower --precision, or set a threshold with --threshold.",
        )
    last = int(good[-1])
    if last + 1 == len(sorted_):
        return float(max(sorted_[last] - MARGIN, MARGIN))
    return float((sorted_[last] + sorted_[last + 1]) / 2)


def count_answered(confidence: NDArray[np.float64], correct: NDArray[np.bool_], threshold: float) -> AnsweredCount:
    """Count the predictions (N,) at or above a threshold, and the correct ones."""
    kept = confidence >= threshold
    return AnsweredCount(len(confidence), int(kept.sum()), int((kept & correct).sum()))
