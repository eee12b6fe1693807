"""Linear probe: a head on frozen features. It ranks backbones and initialises the heads of deeper trials."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autotune.training.metrics import score

INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C, on standardised features


@dataclass(frozen=True)
class LinearProbe:
    """A fitted head. weight: (C, F), bias: (C,), for raw features. value: on the validation set."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    value: float

    def head(self) -> nn.Linear:
        """Return a trainable layer with these weights."""
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.weight))
            layer.bias.copy_(torch.from_numpy(self.bias))
        return layer


def fit_probe(
    metric: str,
    n_classes: int,
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    validation: NDArray[np.float32],
    validation_labels: NDArray[np.int64],
) -> LinearProbe:
    """Fit logistic regression on features (N, F). The validation set decides the penalty; ties go to the stronger one.

    Fine-tuning from such a head distorts pretrained features less than from a random one (LP-FT: Kumar et al. 2022).
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = train.mean(0), train.std(0) + 1e-6
    best: LinearProbe | None = None
    for inverse_penalty in INVERSE_PENALTIES:
        model = LogisticRegression(C=inverse_penalty, max_iter=300).fit((train - mean) / scale, train_labels)
        weight, bias = model.coef_, model.intercept_
        if n_classes == 2:  # one row z for both classes: logits -z / 2 and z / 2
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / scale
        bias = bias - weight @ mean
        predictions = np.argmax(validation @ weight.T + bias, 1)
        value = score(metric, validation_labels, predictions, n_classes)
        if best is None or value > best.value:
            best = LinearProbe(weight.astype(np.float32), bias.astype(np.float32), value)
    assert best
    return best
