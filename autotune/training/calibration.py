"""Calibration: the temperature, the expected calibration error, and the threshold below which not to answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.errors import ConfigError

N_BINS = 15
MARGIN = 1e-3  # how far an exported model's probabilities may differ
MAX_TEMPERATURE = 20.0  # the lowest is its inverse


@dataclass(frozen=True)
class AnsweredCount:
    """Of n pictures, those answered at a threshold, and those of them answered correctly."""

    n: int
    answered: int
    right: int


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """What to divide logits (N, C) by, so that their softmax is calibrated best (Guo et al. 2017).

    The target of the true class is (N + 1) / (N + 2), not 1, and the others share the rest, so that the temperature
    does not go to 0 where all answers are right (Platt 1999).
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
    """The expected calibration error of probabilities (N, C), in [0, 1], over bins of equal width (Guo et al. 2017)."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    return float(multiclass_calibration_error(probabilities.float(), labels, probabilities.shape[1], N_BINS, "l1"))


def find_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> float:
    """The lowest threshold at which the answers (N,) of that confidence and above are right with this precision.

    It lies halfway to the next lower confidence; where all answers reach the precision, just below the lowest, because
    nothing is known of lower ones. Raises ConfigError where no threshold reaches it.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_ = confidence[order]
    reached = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last_of_ties = np.append(sorted_[:-1] > sorted_[1:], True)
    good = np.flatnonzero(last_of_ties & (reached >= precision))
    if not len(good):
        best = reached[last_of_ties].max()
        raise ConfigError(
            f"No threshold answers with precision {precision:g} on validation; the best reached is {best:.3f}.",
            "Ask for less, or give a threshold of your own: --threshold",
        )
    last = int(good[-1])
    if last + 1 == len(sorted_):
        return float(max(sorted_[last] - MARGIN, MARGIN))
    return float((sorted_[last] + sorted_[last + 1]) / 2)


def count_answered(confidence: NDArray[np.float64], right: NDArray[np.bool_], threshold: float) -> AnsweredCount:
    """Count the answers (N,) at a threshold."""
    kept = confidence >= threshold
    return AnsweredCount(len(confidence), int(kept.sum()), int((kept & right).sum()))
