"""Scores: how good a set of answers is, and how sure one can be of that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

N_RESAMPLES = 2000
WORST = 1e6  # what a network says that has diverged: JSON has no infinity, and no order has a NaN

Numbers = NDArray[np.int64]


def score(metric: str, labels: Numbers, answers: Numbers, n_classes: int) -> float:
    """Accuracy, balanced accuracy or macro F1, in [0, 1], of answers (N,) to labels (N,), both class numbers.

    As scikit-learn defines them; balanced accuracy is the mean recall of the classes that labels holds.
    """
    from sklearn import metrics

    if metric == "accuracy":
        return float(np.mean(labels == answers))
    if metric == "balanced_accuracy":
        present = np.unique(labels)
        return float(metrics.recall_score(labels, answers, labels=present, average="macro", zero_division=0.0))
    return float(metrics.f1_score(labels, answers, labels=range(n_classes), average="macro", zero_division=0.0))


def log_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy, in nats, of logits (N, C); WORST where that is no number."""
    found = float(functional.cross_entropy(logits.cpu().double(), labels.cpu()))
    return found if found < WORST else WORST


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share (Wilson 1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(right, n).proportion_ci(method="wilson")
    return float(low), float(high)


def score_interval(metric: str, labels: Numbers, answers: Numbers, n_classes: int) -> tuple[float, float]:
    """The 95 % interval of a score: Wilson's for accuracy, else a percentile bootstrap, seeded.

    Pictures are drawn anew within each class, so that none goes missing and counts as all wrong. Where every answer
    is right the bootstrap has no width, and says less than it seems to.
    """
    if metric == "accuracy":
        return wilson_interval(int(np.sum(labels == answers)), len(labels))
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    found = []
    for _ in range(N_RESAMPLES):
        chosen = np.concatenate([rng.choice(places, len(places)) for places in members])
        found.append(score(metric, labels[chosen], answers[chosen], n_classes))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def smooth(values: Sequence[float], weight: float = 0.8) -> list[float]:
    """An exponential moving average with the start's bias corrected (Adam's correction; TensorBoard's smoothing)."""
    average, out = 0.0, []
    for number, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        out.append(average / (1 - weight**number))
    return out


def predicted_classes(logits: Tensor) -> Numbers:
    """The likeliest class (N,) of logits (N, C)."""
    return torch.argmax(logits, 1).cpu().numpy()
