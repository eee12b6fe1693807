"""Calibration: how far a network's probabilities can be believed, and below which of them it had better not answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.errors import ConfigError

N_BINS = 15
MARGIN = 1e-3  # what an exported model's probabilities may be off by
MOST = 20.0  # the highest temperature tried; the lowest is its inverse


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """What logits (N, C) are to be divided by so that their softmax is best calibrated (Guo et al. 2017).

    The true class's target is (N + 1) / (N + 2), not 1, and the rest is shared by the others, so that pictures all
    answered rightly do not ask for endless certainty (Platt 1999).
    """
    from scipy.optimize import minimize_scalar

    n, classes = logits.shape
    targets = torch.full((n, classes), 1 / (n + 2) / (classes - 1), dtype=torch.float64)
    targets[torch.arange(n), labels] = (n + 1) / (n + 2)
    wide = logits.double()

    def loss(log_temperature: float) -> float:
        return -float((targets * (wide / np.exp(log_temperature)).log_softmax(1)).sum())

    found = minimize_scalar(loss, bounds=(-np.log(MOST), np.log(MOST)), method="bounded")
    return float(np.exp(found.x))


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """The expected calibration error of probabilities (N, C), in [0, 1], over 15 bins of equal width (Guo et al.)."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    found = multiclass_calibration_error(probabilities.float(), labels, probabilities.shape[1], N_BINS, "l1")
    return float(found)


def find_threshold(confidence: NDArray[np.float64], right: NDArray[np.bool_], precision: float) -> float:
    """The lowest probability at which answers (N,) of that confidence and above are right with this precision.

    It lies halfway to the next answer below; where all reach it, just under the least sure of them, because nothing is
    known of doubts that validation never showed. Raises ConfigError where no threshold reaches it.
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


def count_answered(confidence: NDArray[np.float64], right: NDArray[np.bool_], at: float) -> dict[str, Any]:
    """How many of N pictures stay answered at a threshold, and how many of those rightly."""
    kept = confidence >= at
    return {"n": len(confidence), "answered": int(kept.sum()), "right": int((kept & right).sum())}
